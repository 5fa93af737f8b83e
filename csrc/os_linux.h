/* os_linux.h: what the Linux files of the core share among themselves. */
#ifndef GATHERIO_OS_LINUX_H
#define GATHERIO_OS_LINUX_H

#include <stdint.h>

/* Whatever it returns, the descriptor is closed: 0, or why what was written through it did not get to where it belongs. */
int32_t gio_close_descriptor(int fd);

/* mapping_linux.c: whether this process has mapped the file, which must then not become shorter. */
int gio_is_mapped(uint64_t device, uint64_t inode);

#endif
