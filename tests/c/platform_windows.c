/* platform_windows.c: platform.h on Windows. */
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include "platform.h"

const void *platform_path(const char *path)
{
    static _Thread_local wchar_t wide[1024];
    return MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, 1024) ? wide : L"";
}

int platform_seek(FILE *file, uint64_t offset) { return _fseeki64(file, (int64_t)offset, SEEK_SET); }

uint64_t platform_allocated_bytes(const char *path)
{
    FILE_STANDARD_INFO standard;
    HANDLE file = CreateFileW(platform_path(path), FILE_READ_ATTRIBUTES, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL,
                              OPEN_EXISTING, 0, NULL);
    if (file == INVALID_HANDLE_VALUE)
        return 0;
    BOOL told = GetFileInformationByHandleEx(file, FileStandardInfo, &standard, sizeof standard);
    CloseHandle(file);
    return told ? (uint64_t)standard.AllocationSize.QuadPart : 0;
}

int platform_huge_pages_are_automatic(void) { return 0; }

void platform_pause_ms(int ms) { Sleep((DWORD)ms); }

int64_t platform_acquire(const int64_t *place) { return InterlockedOr64((int64_t *)place, 0); }

int platform_is_readable(int64_t handle, int timeout_ms)
{
    (void)handle; /* there are no such handles: gio_event_handle says -1 */
    (void)timeout_ms;
    return 0;
}

int platform_interrupt_me_after(int ms)
{
    (void)ms;
    return 0; /* Windows has no signals */
}

int32_t platform_shortage_code(void) { return ERROR_WORKING_SET_QUOTA; }

int platform_post_completion(int64_t poll_handle, uint64_t user_data, int32_t result)
{
    (void)poll_handle;
    (void)user_data;
    (void)result;
    return -1;
}

int platform_in_forked_child(int (*body)(void *), void *argument)
{
    (void)body;
    (void)argument;
    return -2;
}
