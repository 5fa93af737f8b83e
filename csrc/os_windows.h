/* os_windows.h: what os_windows.c and backend_iocp.c share: how one request is put to Windows. */
#ifndef GATHERIO_OS_WINDOWS_H
#define GATHERIO_OS_WINDOWS_H

/* Windows 8, for FILE_STORAGE_INFO. */
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0602
#endif
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include "internal.h"

/* A time as Windows' waits take it: rounded up, so that none is over before its time; what does not fit is as good as for
 * ever. */
DWORD gio_milliseconds(int64_t timeout_ns);

/* What the kernel uses until the request's completion has been seen: the OVERLAPPED, and the list of pages. */
typedef struct {
    OVERLAPPED overlapped; /* hEvent is the owner's business */
    FILE_SEGMENT_ELEMENT *elements; /* one for each page, NULL at the end; made when first needed and kept */
    uint64_t capacity;
} gio_overlapped_call;

/* Puts a request to the system. 0: accepted, and the completion tells the rest, whether or not it has already happened.
 * Else the error, and no completion follows. */
DWORD gio_overlapped_issue(gio_overlapped_call *call, const gio_request *request);
/* What a completion brought, as gio_request_returned takes it. May wait where the OVERLAPPED has an event. */
int64_t gio_overlapped_result(gio_overlapped_call *call, const gio_request *request, BOOL wait);
/* The same for an error of either. */
int64_t gio_overlapped_failure(const gio_request *request, DWORD error);
void gio_overlapped_free(gio_overlapped_call *call);

/* os_windows.c, for the files beside it. */
int32_t gio_enable_privilege(const wchar_t *name);
int32_t gio_set_end(HANDLE handle, uint64_t size);
/* To CreateFile, whose path may be, or lead to, a pipe: its server learns who we are, and may not act for us. */
enum { GIO_NO_IMPERSONATION = SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION };
enum { GIO_FOLDER_NOT_SUPPORTED = 336 }; /* ERROR_DIRECTORY_NOT_SUPPORTED of <winerror.h>; older headers lack it */

#endif
