/* device_linux.c: what /sys tells of the device that a file lies on. It is asked once for each device.
 *
 * A device's number does not say which device it is: it is used again when another one is plugged in, or another image given to
 * a loop device. A mount does. As long as it is there its device is the same one, and since Linux 6.8 statx(2) tells a number of
 * the mount that no other one ever has (STATX_MNT_ID_UNIQUE). Where no such number is told /sys is asked each time, and so it
 * is for a device that is opened itself: nothing keeps its number. What a driver changes under a mount is seen by the next one:
 * it is a matter of speed alone, and alignments are told for each file.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "os_linux.h"

/* Of a disk, or of the disk that a partition is on. File systems over several devices have none. */
static uint64_t read_segments(uint32_t major, uint32_t minor)
{
    static const char *const places[] = {"queue", "../queue"};
    char path[80], digits[24];

    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s/max_segments", major, minor, places[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        ssize_t count = read(fd, digits, sizeof digits - 1);
        close(fd);
        digits[count > 0 ? count : 0] = 0;
        return strtoull(digits, NULL, 10);
    }
    return 0;
}

typedef struct {
    uint64_t mount; /* 0: not in use */
    uint32_t major, minor; /* one mount of btrfs has several */
    uint64_t segments;
} known;

enum { KNOWN_MAX = 32 }; /* mounts that a program has files on at a time: a few */
static known devices[KNOWN_MAX];
static uint32_t oldest;
static pthread_mutex_t devices_mutex = PTHREAD_MUTEX_INITIALIZER;

static int recall(uint64_t mount, uint32_t major, uint32_t minor, uint64_t *segments)
{
    for (int i = 0; i < KNOWN_MAX; i++)
        if (devices[i].mount == mount && devices[i].major == major && devices[i].minor == minor) {
            *segments = devices[i].segments;
            return 1;
        }
    return 0;
}

/* Nobody waits for the mutex: in a forked child it may be held by a thread of the parent's, for ever. */
uint64_t gio_device_segments(uint64_t mount, uint32_t major, uint32_t minor)
{
    uint64_t segments = 0;

    if (mount == 0 || pthread_mutex_trylock(&devices_mutex) != 0)
        return read_segments(major, minor);
    if (!recall(mount, major, minor, &segments)) {
        segments = read_segments(major, minor);
        devices[oldest] = (known){mount, major, minor, segments};
        oldest = (oldest + 1) % KNOWN_MAX;
    }
    pthread_mutex_unlock(&devices_mutex);
    return segments;
}
