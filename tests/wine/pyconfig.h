/* 64-bit Windows as CPython's headers must see it when mingw-w64's gcc reads them.
 *
 * A Linux CPython has the same headers but for this one, which its own configure wrote for Linux. Only what
 * the headers ask for is here; that extension modules link to python3.dll is said on the linker's command line.
 */
#ifndef Py_CONFIG_H
#define Py_CONFIG_H

#include <io.h>
#include <stddef.h>

#define MS_WIN32
#define MS_WIN64
#define MS_WINDOWS
#define NT_THREADS
#define PLATFORM "win32"

#define HAVE_DECLSPEC_DLL
#define Py_ENABLE_SHARED 1

#define SIZEOF_SHORT 2
#define SIZEOF_INT 4
#define SIZEOF_LONG 4 /* here Windows is not Linux */
#define SIZEOF_LONG_LONG 8
#define SIZEOF_VOID_P 8
#define SIZEOF_SIZE_T 8
#define SIZEOF_TIME_T 8
#define SIZEOF_PID_T 4
#define SIZEOF_WCHAR_T 2 /* and here */
#define SIZEOF_FLOAT 4
#define SIZEOF_DOUBLE 8

#define HAVE_SYS_STAT_H 1
#define HAVE_SYS_TYPES_H 1
#define HAVE_WCHAR_H 1

#endif
