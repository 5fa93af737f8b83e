/* os_linux.h: what the Linux files of the core share among themselves. */
#ifndef GATHERIO_OS_LINUX_H
#define GATHERIO_OS_LINUX_H

#include <stdint.h>
#include <sys/stat.h>

/* Opens what may have become anything since it was looked at, and looks at it again: the caller is to judge `status`. It does
 * not wait for the other end of a pipe. After an error *fd may be open. */
int32_t gio_open_checkable(const char *path, int flags, int *fd, struct stat *status);
/* What is open once more: the same inode, whatever has its name by now. -1 and errno as open(2). */
int gio_reopen(int fd, int flags);

/* Whatever it returns, the descriptor is closed: 0, or why what was written through it did not get to where it belongs. */
int32_t gio_close_descriptor(int fd);

/* Whether so many bytes more are more than there is room for, as far as the file system tells. */
int gio_is_too_much(int fd, uint64_t nbytes);

/* A lease for writing (F_SETLEASE in fcntl(2)): nobody else has the file open, and who opens it waits. Whether that holds
 * for other machines as well is a matter of the file system, by its magic number. */
int gio_take_lease(int fd);
void gio_give_lease(int fd);
int gio_leases_bind_all(uint64_t file_system);
/* Frees what is reserved behind the end of the file, if there is a lease to be had. */
void gio_free_behind_end(int fd);

/* device_linux.c: pieces of memory in one request of a device; 0: not told. `mount`: see gio_mount_of. */
uint64_t gio_device_segments(uint64_t mount, uint32_t major, uint32_t minor);

/* mapping_linux.c: whether this process has mapped the file, which must then not become shorter. */
int gio_is_mapped(uint64_t device, uint64_t inode);

#endif
