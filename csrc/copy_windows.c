/* copy_windows.c: copies of memory whose pages may be gone. A mapped file cannot be cut here, but where the disk or the
 * network fails under a mapped page, a load is an exception, which ends the process. ReadProcessMemory and
 * WriteProcessMemory, on this very process, answer with an error. */
#include "os_windows.h"

int gio_copy_is_guarded(void) { return 1; }

int32_t gio_copy_guarded(int32_t direction, const gio_segment *memory, uint64_t count, void *ours)
{
    for (char *at = ours; count != 0; at += memory->length, memory++, count--) {
        void *address = (void *)(uintptr_t)memory->address;
        SIZE_T done;
        BOOL copied = direction == GIO_WRITE
                          ? ReadProcessMemory(GetCurrentProcess(), address, at, (SIZE_T)memory->length, &done)
                          : WriteProcessMemory(GetCurrentProcess(), address, at, (SIZE_T)memory->length, &done);
        if (!copied)
            return ERROR_NOACCESS; /* as transfers say of such memory */
    }
    return 0;
}
