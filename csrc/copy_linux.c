/* copy_linux.c: copies of memory whose pages may be gone. Of a mapped file that somebody has cut shorter, a load behind the
 * new end is a SIGBUS, which ends the process. The kernel copies instead, as it does for write(2), and answers EFAULT:
 * process_vm_readv(2) and process_vm_writev(2) with this very process at both ends.
 *
 * Measured: 0.8 us for a call, and then 1.2 (huge pages) to 4 times the time of memcpy. The pages at `ours` are looked up one
 * by one, those at `memory` are simply accessed: whichever is in huge pages belongs at `ours`.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"

_Static_assert(sizeof(struct iovec) == sizeof(gio_segment), "a segment array is handed to the kernel as it is");

static int32_t by_kernel(int32_t direction, const gio_segment *memory, uint64_t count, void *ours, uint64_t nbytes)
{
    struct iovec other = {ours, (size_t)nbytes};
    const struct iovec *local = (const struct iovec *)memory;
    ssize_t moved = direction == GIO_WRITE ? process_vm_writev(getpid(), local, count, &other, 1, 0)
                                           : process_vm_readv(getpid(), local, count, &other, 1, 0);
    if (moved < 0)
        return errno;
    return (uint64_t)moved == nbytes ? 0 : EFAULT; /* it went until an address with nothing behind it */
}

/* Sandboxes know these calls as a debugger's, and refuse them. */
static int is_refusal(int32_t code) { return code == EPERM || code == ENOSYS; }

int gio_copy_is_guarded(void)
{
    static int told; /* 0: not asked yet, 1: yes, 2: no */
    int state = __atomic_load_n(&told, __ATOMIC_RELAXED);
    if (state == 0) {
        char from = 0, to;
        gio_segment one = {(uint64_t)(uintptr_t)&from, 1};
        state = is_refusal(by_kernel(GIO_WRITE, &one, 1, &to, 1)) ? 2 : 1;
        __atomic_store_n(&told, state, __ATOMIC_RELAXED);
    }
    return state == 1;
}

int32_t gio_copy_guarded(int32_t direction, const gio_segment *memory, uint64_t count, void *ours)
{
    uint64_t nbytes = 0;
    for (uint64_t i = 0; i < count; i++)
        nbytes += memory[i].length;
    int32_t code = gio_copy_is_guarded() ? by_kernel(direction, memory, count, ours, nbytes) : ENOSYS;
    if (!is_refusal(code))
        return code;
    gio_copy_plainly(direction, memory, count, ours);
    return 0;
}
