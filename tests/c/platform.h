/* platform.h: all that the native tests need from the operating system and the core does not give them. */
#ifndef GATHERIO_TEST_PLATFORM_H
#define GATHERIO_TEST_PLATFORM_H

#include <stdint.h>
#include <stdio.h>

/* The path in the encoding that gio_file_open takes; valid until the next call in this thread. */
const void *platform_path(const char *path);
int platform_seek(FILE *file, uint64_t offset);
uint64_t platform_allocated_bytes(const char *path); /* on the disk, holes not counted */
int platform_huge_pages_are_automatic(void); /* large allocations start on one unasked */
void platform_pause_ms(int ms);
int64_t platform_acquire(const int64_t *place); /* reads what gio_publish writes, without a lock */
int platform_is_readable(int64_t handle, int timeout_ms); /* does it poll as readable? */
/* After `ms`, a signal interrupts whatever system call the calling thread sleeps in. 0: no such thing here. */
int platform_interrupt_me_after(int ms);
/* A code by which the system says that too much memory is locked for what is in flight. 0: it never does. */
int32_t platform_shortage_code(void);
/* Puts a completion that nobody asked for into the ring behind a poll handle. 0: done, -1: there is no such thing here. */
int platform_post_completion(int64_t poll_handle, uint64_t user_data, int32_t result);
/* Runs `body` in a forked child and returns its result; -1: it did not come back within seconds, -2: no fork here. */
int platform_in_forked_child(int (*body)(void *), void *argument);

#endif
