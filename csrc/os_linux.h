/* os_linux.h: what the Linux files of the core share among themselves. */
#ifndef GATHERIO_OS_LINUX_H
#define GATHERIO_OS_LINUX_H

#include <stdint.h>

/* mapping_linux.c: how far this process has mapped the file; 0: not at all. It must not become shorter than that. */
uint64_t gio_mapped_end(uint64_t device, uint64_t inode);

#endif
