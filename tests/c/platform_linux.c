/* platform_linux.c: platform.h on Linux. */
#define _GNU_SOURCE
#include "platform.h"

#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const void *platform_path(const char *path) { return path; }

int platform_seek(FILE *file, uint64_t offset) { return fseeko(file, (off_t)offset, SEEK_SET); }

uint64_t platform_allocated_bytes(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 ? (uint64_t)status.st_blocks * 512 : 0;
}

int platform_huge_pages_are_automatic(void) { return 1; }

void platform_pause_ms(int ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0)
        continue;
}

int64_t platform_acquire(const int64_t *place) { return __atomic_load_n(place, __ATOMIC_ACQUIRE); }

int platform_is_readable(int64_t handle, int timeout_ms)
{
    struct pollfd poller = {(int)handle, POLLIN, 0};
    return poll(&poller, 1, timeout_ms) == 1 && (poller.revents & POLLIN);
}

static void interrupted(int number) { (void)number; }

typedef struct {
    pthread_t target;
    int ms;
} interruption;

static void *interrupt(void *argument)
{
    interruption *due = argument;
    platform_pause_ms(due->ms);
    pthread_kill(due->target, SIGUSR1);
    free(due);
    return NULL;
}

int platform_interrupt_me_after(int ms)
{
    interruption *due = malloc(sizeof *due);
    struct sigaction action;
    pthread_t thread;

    memset(&action, 0, sizeof action); /* without SA_RESTART: a system call that sleeps ends with EINTR */
    action.sa_handler = interrupted;
    if (due == NULL)
        return 0;
    due->target = pthread_self();
    due->ms = ms;
    return sigaction(SIGUSR1, &action, NULL) == 0 && pthread_create(&thread, NULL, interrupt, due) == 0 &&
           pthread_detach(thread) == 0;
}

int32_t platform_shortage_code(void) { return 0; }

/* By a message from a ring of our own (Linux 5.18). */
int platform_post_completion(int64_t poll_handle, uint64_t user_data, int32_t result)
{
    enum { MESSAGE = 40 }; /* IORING_OP_MSG_RING, which older headers lack */
    struct io_uring_params parameters;
    int posted = -1;

    memset(&parameters, 0, sizeof parameters);
    int fd = poll_handle < 0 ? -1 : (int)syscall(SYS_io_uring_setup, 1, &parameters);
    if (fd < 0)
        return -1;
    size_t rings_bytes = parameters.cq_off.cqes + parameters.cq_entries * sizeof(struct io_uring_cqe);
    char *rings = mmap(NULL, rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
    struct io_uring_sqe *entry = mmap(NULL, sizeof *entry, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
    if (rings != MAP_FAILED && entry != MAP_FAILED) {
        memset(entry, 0, sizeof *entry);
        entry->opcode = MESSAGE;
        entry->fd = (int)poll_handle;
        entry->len = (uint32_t)result;
        entry->off = user_data;
        *(uint32_t *)(rings + parameters.sq_off.array) = 0;
        __atomic_store_n((uint32_t *)(rings + parameters.sq_off.tail), 1, __ATOMIC_RELEASE);
        struct io_uring_cqe *told = (struct io_uring_cqe *)(rings + parameters.cq_off.cqes);
        if (syscall(SYS_io_uring_enter, fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1 && told->res >= 0)
            posted = 0;
    }
    if (rings != MAP_FAILED)
        munmap(rings, rings_bytes);
    if (entry != MAP_FAILED)
        munmap(entry, sizeof *entry);
    close(fd);
    return posted;
}

int platform_in_forked_child(int (*body)(void *), void *argument)
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGALRM, SIG_DFL);
        alarm(10); /* a child that hangs is ended, and seen as such */
        int result = body(argument);
        fflush(NULL);
        _exit(result); /* no exit handlers: they belong to the parent */
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
