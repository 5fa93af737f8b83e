/* os_windows.c: what the core asks of Windows, apart from the completion port (backend_iocp.c).
 *
 * A file is opened once or twice, as on Linux. Where transfers are to go around the cache, one handle has
 * FILE_FLAG_NO_BUFFERING: offsets and lengths on it are multiples of the sector, memory starts on a page. A file that is
 * also written to has a second handle then, with FILE_FLAG_WRITE_THROUGH instead, for the ragged ends of writes: less than a
 * page each, merged with their neighbours by the cache manager, and on the device when the write has finished. The second
 * is made of the first by ReOpenFile, so that a rename in between changes nothing. All handles are overlapped.
 *
 * How a request becomes a call:
 *
 *   one run of memory ................. WriteFile, ReadFile
 *   several, whole pages each ......... WriteFileGather, ReadFileScatter: one FILE_SEGMENT_ELEMENT for each page. Windows
 *                                       would take a last page in part; the plan (gio_limits.segment_unit) never has one
 *
 * A read that starts at or past the end of the file fails with ERROR_HANDLE_EOF, at once or as its completion: both
 * are "0 bytes". (An unbuffered read at an unaligned offset there would be ERROR_INVALID_PARAMETER; ours are aligned.)
 *
 * In this file: pages, locks and threads, the clock, codes, files, transfers, events.
 */
#include "os_windows.h"

#include <process.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(FILE_SEGMENT_ELEMENT) == 8, "an element is 64 bits, on 32-bit systems too");

/* Of <winerror.h>; older headers lack it. */
enum { DISK_QUOTA_EXCEEDED = 1295 };

static HANDLE as_handle(int64_t value) { return (HANDLE)(intptr_t)value; }

/* ---- the system ----------------------------------------------------------------------------------------- */

void gio_system(gio_system_facts *facts)
{
    SYSTEM_INFO system;
    GetSystemInfo(&system);
    facts->page_size = system.dwPageSize;
    facts->allocation_granularity = system.dwAllocationGranularity;
    facts->huge_page_size = GetLargePageMinimum();
    facts->max_segments = 1024;   /* no limit is documented; every page of a request is locked, so keep it modest */
    facts->buffered_segments = 1; /* gather and scatter are for unbuffered handles */
    facts->segment_unit = system.dwPageSize;
    facts->max_request_bytes = gio_round_down(0x7fffffff, system.dwPageSize); /* a DWORD, and .NET's limit */
    facts->folio_bytes = system.dwPageSize;
    facts->direct_bytes_min = 0; /* through the cache each run of memory is a call of its own */
}

/* A privilege that the user may hold is not in force before it is asked for. */
int32_t gio_enable_privilege(const wchar_t *name)
{
    HANDLE token;
    TOKEN_PRIVILEGES wanted;

    wanted.PrivilegeCount = 1;
    wanted.Privileges[0].Attributes = SE_PRIVILEGE_ENABLED;
    if (!LookupPrivilegeValueW(NULL, name, &wanted.Privileges[0].Luid) ||
        !OpenProcessToken(GetCurrentProcess(), TOKEN_ADJUST_PRIVILEGES, &token))
        return (int32_t)GetLastError();
    BOOL called = AdjustTokenPrivileges(token, FALSE, &wanted, 0, NULL, NULL);
    DWORD error = GetLastError(); /* ERROR_NOT_ALL_ASSIGNED comes with TRUE */
    CloseHandle(token);
    if (!called)
        return (int32_t)error;
    return error == ERROR_NOT_ALL_ASSIGNED ? ERROR_PRIVILEGE_NOT_HELD : 0;
}

/* ---- pages ---------------------------------------------------------------------------------------------- */

/* VirtualAlloc starts every region on the allocation granularity, 64 KiB: a page by itself would burn fifteen others of
 * address space. Small allocations therefore come from slabs: one reserved region each, pages of it committed when
 * they are handed out and decommitted when they come back, so that they are zero again the next time. */
enum { SLAB_BYTES = 1024 * 1024, SLAB_PAGES_MAX = SLAB_BYTES / 4096 };

typedef struct slab {
    struct slab *next;
    char *base;
    uint32_t used; /* pages */
    uint8_t taken[SLAB_PAGES_MAX];
} slab;

static SRWLOCK slabs_lock = SRWLOCK_INIT;
static slab *slabs;

static uint64_t page_bytes(void)
{
    static uint64_t bytes; /* written with the same value by all */
    if (bytes == 0) {
        SYSTEM_INFO system;
        GetSystemInfo(&system);
        bytes = system.dwPageSize;
    }
    return bytes;
}

static slab *new_slab(void)
{
    slab *made = calloc(1, sizeof *made);
    if (made == NULL)
        return NULL;
    made->base = VirtualAlloc(NULL, SLAB_BYTES, MEM_RESERVE, PAGE_NOACCESS);
    if (made->base == NULL) {
        free(made);
        return NULL;
    }
    made->next = slabs;
    slabs = made;
    return made;
}

/* The first `count` free pages in a row, or -1. */
static int32_t find_room(const slab *slab, uint32_t count)
{
    uint32_t pages = (uint32_t)(SLAB_BYTES / page_bytes()), run = 0;
    for (uint32_t i = 0; i < pages; i++) {
        run = slab->taken[i] ? 0 : run + 1;
        if (run == count)
            return (int32_t)(i + 1 - count);
    }
    return -1;
}

static int32_t slab_allocate(uint64_t nbytes, void **address)
{
    uint32_t count = (uint32_t)(nbytes / page_bytes());
    int32_t first = -1, code = 0;

    AcquireSRWLockExclusive(&slabs_lock);
    slab *slab = slabs;
    while (slab && (first = find_room(slab, count)) < 0)
        slab = slab->next;
    if (slab == NULL && (slab = new_slab()) != NULL)
        first = 0;
    if (slab == NULL) {
        code = ERROR_NOT_ENOUGH_MEMORY;
    } else {
        void *pages = slab->base + (uint64_t)first * page_bytes();
        if (VirtualAlloc(pages, (SIZE_T)nbytes, MEM_COMMIT, PAGE_READWRITE) == NULL) {
            code = (int32_t)GetLastError();
        } else {
            *address = pages;
            memset(&slab->taken[first], 1, count);
            slab->used += count;
        }
    }
    ReleaseSRWLockExclusive(&slabs_lock);
    return code;
}

/* Whether the memory was a slab's. One slab is kept when it is empty. */
static int slab_free(char *address, uint64_t nbytes)
{
    AcquireSRWLockExclusive(&slabs_lock);
    slab **link = &slabs, *slab;
    while ((slab = *link) != NULL && !(address >= slab->base && address < slab->base + SLAB_BYTES))
        link = &slab->next;
    if (slab) {
        uint32_t count = (uint32_t)(nbytes / page_bytes());
        VirtualFree(address, (SIZE_T)nbytes, MEM_DECOMMIT);
        memset(&slab->taken[(uint64_t)(address - slab->base) / page_bytes()], 0, count);
        slab->used -= count;
        if (slab->used == 0 && (slab != slabs || slab->next != NULL)) {
            *link = slab->next;
            VirtualFree(slab->base, 0, MEM_RELEASE);
            free(slab);
        }
    }
    ReleaseSRWLockExclusive(&slabs_lock);
    return slab != NULL;
}

static int32_t allocate_large_pages(uint64_t nbytes, void **address)
{
    int32_t code = gio_enable_privilege(L"SeLockMemoryPrivilege");
    if (code)
        return code;
    *address = VirtualAlloc(NULL, (SIZE_T)nbytes, MEM_RESERVE | MEM_COMMIT | MEM_LARGE_PAGES, PAGE_READWRITE);
    return *address ? 0 : (int32_t)GetLastError();
}

int32_t gio_pages_allocate(uint64_t nbytes, int32_t huge, void **address, uint64_t *allocated)
{
    uint64_t unit = huge == GIO_HUGE_YES ? GetLargePageMinimum() : page_bytes();

    if (unit == 0)
        return ERROR_NOT_SUPPORTED;
    if (nbytes > (uint64_t)INT64_MAX - unit || nbytes > (SIZE_T)-1 / 2)
        return ERROR_NOT_ENOUGH_MEMORY;
    nbytes = gio_round_up(gio_max(nbytes, 1), unit);
    *allocated = nbytes;
    if (huge == GIO_HUGE_YES)
        return allocate_large_pages(nbytes, address);
    if (nbytes < SLAB_BYTES / 16)
        return slab_allocate(nbytes, address);
    *address = VirtualAlloc(NULL, (SIZE_T)nbytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    return *address ? 0 : (int32_t)GetLastError();
}

/* Committed memory cannot fail to be there; touching it brings it in. Another thread may be writing there: an atomic addition
 * of nothing loses nothing of it. */
int32_t gio_pages_prefault(void *address, uint64_t nbytes)
{
    char *begin = (char *)(uintptr_t)gio_round_down((uint64_t)(uintptr_t)address, page_bytes());
    for (char *at = begin; at < (char *)address + nbytes; at += page_bytes())
        InterlockedExchangeAdd((volatile LONG *)at, 0);
    return 0;
}

void gio_os_pages_free(void *address, uint64_t allocated)
{
    if (allocated >= SLAB_BYTES / 16 || !slab_free(address, allocated))
        VirtualFree(address, 0, MEM_RELEASE);
}

/* ---- locks, threads, clock, fork ------------------------------------------------------------------------ */

_Static_assert(sizeof(SRWLOCK) <= sizeof(gio_mutex), "gio_mutex is too small");
_Static_assert(sizeof(CONDITION_VARIABLE) <= sizeof(gio_condition), "gio_condition is too small");
_Static_assert(sizeof(HANDLE) <= sizeof(gio_thread), "gio_thread is too small");

void gio_mutex_init(gio_mutex *mutex) { InitializeSRWLock((SRWLOCK *)mutex); }
void gio_mutex_destroy(gio_mutex *mutex) { (void)mutex; }
void gio_mutex_lock(gio_mutex *mutex) { AcquireSRWLockExclusive((SRWLOCK *)mutex); }
void gio_mutex_unlock(gio_mutex *mutex) { ReleaseSRWLockExclusive((SRWLOCK *)mutex); }
void gio_condition_init(gio_condition *condition) { InitializeConditionVariable((CONDITION_VARIABLE *)condition); }
void gio_condition_destroy(gio_condition *condition) { (void)condition; }
void gio_condition_wake_one(gio_condition *condition) { WakeConditionVariable((CONDITION_VARIABLE *)condition); }
void gio_condition_wake_all(gio_condition *condition) { WakeAllConditionVariable((CONDITION_VARIABLE *)condition); }

DWORD gio_milliseconds(int64_t timeout_ns)
{
    if (timeout_ns < 0)
        return INFINITE;
    return (DWORD)gio_min(((uint64_t)timeout_ns + 999999) / 1000000, INFINITE - 1);
}

void gio_condition_wait(gio_condition *condition, gio_mutex *mutex, int64_t deadline_ns)
{
    int64_t left_ns = deadline_ns < 0 ? -1 : deadline_ns - gio_now_ns();
    if (deadline_ns >= 0 && left_ns <= 0)
        left_ns = 0;
    SleepConditionVariableSRW((CONDITION_VARIABLE *)condition, (SRWLOCK *)mutex, gio_milliseconds(left_ns), 0);
}

typedef struct {
    void *(*body)(void *);
    void *argument;
} thread_start;

static unsigned __stdcall run_thread(void *start_)
{
    thread_start start = *(thread_start *)start_;
    free(start_);
    start.body(start.argument);
    return 0;
}

int32_t gio_thread_start(gio_thread *thread, void *(*body)(void *), void *argument)
{
    thread_start *start = malloc(sizeof *start);
    if (start == NULL)
        return ERROR_NOT_ENOUGH_MEMORY;
    start->body = body;
    start->argument = argument;
    uintptr_t handle = _beginthreadex(NULL, 0, run_thread, start, 0, NULL);
    if (handle == 0) {
        free(start);
        return ERROR_MAX_THRDS_REACHED;
    }
    *(HANDLE *)thread = (HANDLE)handle;
    return 0;
}

void gio_thread_join(gio_thread *thread)
{
    WaitForSingleObject(*(HANDLE *)thread, INFINITE);
    CloseHandle(*(HANDLE *)thread);
}

int64_t gio_now_ns(void)
{
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceFrequency(&per_second);
    QueryPerformanceCounter(&ticks);
    return ticks.QuadPart / per_second.QuadPart * 1000000000 +
           ticks.QuadPart % per_second.QuadPart * 1000000000 / per_second.QuadPart;
}

int64_t gio_deadline_ns(int64_t timeout_ns)
{
    int64_t now_ns = gio_now_ns();
    return timeout_ns < 0 || timeout_ns > INT64_MAX - now_ns ? -1 : now_ns + timeout_ns;
}

void gio_publish(int64_t *place, int64_t value) { InterlockedExchange64(place, value); }

uint64_t gio_fork_count(void) { return 0; } /* Windows has no fork */

/* ---- codes ---------------------------------------------------------------------------------------------- */

int gio_code_is_transient(int32_t code) { return code == ERROR_RETRY; }
int gio_code_is_for_now(int32_t code) { return code == ERROR_RETRY; }
int gio_code_is_cancelled(int32_t code) { return code == ERROR_OPERATION_ABORTED; }

int gio_code_is_doubtful(int32_t code)
{
    (void)code; /* a call tells its own error */
    return 0;
}

/* The pages of every request in flight are locked, and counted against the working set and the system's pool. */
int gio_code_is_shortage(int32_t code)
{
    return code == ERROR_WORKING_SET_QUOTA || code == ERROR_NO_SYSTEM_RESOURCES || code == ERROR_NOT_ENOUGH_QUOTA ||
           code == ERROR_INVALID_USER_BUFFER || code == ERROR_PAGEFILE_QUOTA || code == ERROR_NONPAGED_SYSTEM_RESOURCES;
}

int32_t gio_code_no_memory(void) { return ERROR_NOT_ENOUGH_MEMORY; }
int32_t gio_code_invalid(void) { return ERROR_INVALID_PARAMETER; }
int32_t gio_code_cancelled(void) { return ERROR_OPERATION_ABORTED; }

/* ---- files: opening ------------------------------------------------------------------------------------- */

enum { SHARING = FILE_SHARE_READ | FILE_SHARE_WRITE }; /* as Python's open() */

static int32_t open_first(const wchar_t *path, DWORD rights, int32_t create, DWORD flags, HANDLE *handle, int *created)
{
    DWORD disposition = create == GIO_OPEN_EXISTING ? OPEN_EXISTING : create == GIO_OPEN_NEW ? CREATE_NEW : OPEN_ALWAYS;

    *handle = CreateFileW(path, rights, SHARING, NULL, disposition, FILE_ATTRIBUTE_NORMAL | GIO_NO_IMPERSONATION | flags,
                          NULL);
    DWORD error = GetLastError();
    if (*handle == INVALID_HANDLE_VALUE) {
        DWORD attributes = error == ERROR_ACCESS_DENIED ? GetFileAttributesW(path) : INVALID_FILE_ATTRIBUTES;
        int is_folder = attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY);
        return is_folder ? GIO_FOLDER_NOT_SUPPORTED : (int32_t)error;
    }
    *created = disposition == CREATE_NEW || (disposition == OPEN_ALWAYS && error != ERROR_ALREADY_EXISTS);
    return GetFileType(*handle) == FILE_TYPE_DISK ? 0 : ERROR_SEEK_ON_DEVICE; /* pipes, consoles: no offsets */
}

/* The path of an open file's folder, with a backslash at the end; it is not empty. */
static int find_folder(HANDLE handle, wchar_t *path, DWORD capacity)
{
    DWORD length = GetFinalPathNameByHandleW(handle, path, capacity, FILE_NAME_NORMALIZED);
    if (length == 0 || length >= capacity)
        return 0;
    while (length != 0 && path[length - 1] != L'\\')
        length--;
    path[length] = 0;
    return length != 0;
}

uint64_t gio_mount_of(const void *path)
{
    (void)path; /* a volume has a serial number instead */
    return 0;
}

enum { PATH_CAPACITY = 32768 }; /* characters; no path of Windows is longer */

/* The sector of the volume that the file is on; 0 where nobody tells. */
static uint64_t find_sector(HANDLE handle)
{
    FILE_STORAGE_INFO storage;
    DWORD sector = 0, unused;

    if (GetFileInformationByHandleEx(handle, FileStorageInfo, &storage, sizeof storage))
        return storage.LogicalBytesPerSector;
    wchar_t *path = malloc(2 * PATH_CAPACITY * sizeof *path); /* and the volume's root behind it */
    if (path == NULL || !find_folder(handle, path, PATH_CAPACITY) ||
        !GetVolumePathNameW(path, path + PATH_CAPACITY, PATH_CAPACITY) ||
        !GetDiskFreeSpaceW(path + PATH_CAPACITY, &unused, &sector, &unused, &unused))
        sector = 0;
    free(path);
    return sector;
}

static void find_facts(gio_file *file, HANDLE handle, gio_file_facts *facts)
{
    BY_HANDLE_FILE_INFORMATION information;
    wchar_t name[MAX_PATH + 1];
    uint64_t sector = find_sector(handle);

    facts->alignment_told = sector != 0;
    facts->offset_alignment = sector ? sector : page_bytes();
    facts->memory_alignment = page_bytes(); /* what FILE_SEGMENT_ELEMENT asks for; no sector is larger */
    if (GetVolumeInformationByHandleW(handle, NULL, 0, NULL, NULL, NULL, name, MAX_PATH + 1))
        for (int i = 0; name[i] && i < (int)sizeof facts->file_system_name - 1; i++)
            facts->file_system_name[i] = name[i] < 128 ? (uint8_t)name[i] : '?';
    if (GetFileInformationByHandle(handle, &information)) /* these are read and written inside the call */
        file->may_block = (information.dwFileAttributes & (FILE_ATTRIBUTE_COMPRESSED | FILE_ATTRIBUTE_ENCRYPTED)) != 0;
}

/* A handle beside the first one that goes around the cache; INVALID_HANDLE_VALUE, and the reason in the facts. */
static HANDLE open_around(HANDLE first, DWORD rights, DWORD flags, gio_file_facts *facts)
{
    HANDLE around = INVALID_HANDLE_VALUE;

    if (facts->offset_alignment > GIO_STAGE_BYTES) {
        facts->direct_code = GIO_E_COARSE;
    } else {
        around = ReOpenFile(first, rights, SHARING, flags | FILE_FLAG_NO_BUFFERING);
        facts->direct_code = around == INVALID_HANDLE_VALUE ? (int32_t)GetLastError() : 0;
    }
    facts->direct = around != INVALID_HANDLE_VALUE;
    return around;
}

/* Makes of the first handle those that the file is to have. */
static int32_t open_handles(HANDLE first, DWORD rights, int32_t direct, int32_t durable, HANDLE *transfers,
                            HANDLE *ragged, gio_file_facts *facts)
{
    DWORD flags = FILE_FLAG_OVERLAPPED | (durable ? FILE_FLAG_WRITE_THROUGH : 0);

    *transfers = *ragged = first;
    if (direct == GIO_DIRECT_NO) {
        facts->direct_code = GIO_E_NOT_ASKED;
        return 0;
    }
    HANDLE around = open_around(first, rights, flags, facts);
    if (facts->direct) {
        *transfers = around;
        if (!(rights & GENERIC_WRITE)) { /* no ragged ends */
            CloseHandle(first);
            *ragged = around;
        }
        return 0;
    }
    if (direct == GIO_DIRECT_YES)
        return facts->direct_code;
    HANDLE plain = ReOpenFile(first, rights, SHARING, flags); /* the first one writes through */
    if (plain != INVALID_HANDLE_VALUE) {
        CloseHandle(first);
        *transfers = *ragged = plain;
    }
    return 0;
}

int32_t gio_set_end(HANDLE handle, uint64_t size)
{
    FILE_END_OF_FILE_INFO end;
    end.EndOfFile.QuadPart = (LONGLONG)size;
    if (SetFileInformationByHandle(handle, FileEndOfFileInfo, &end, sizeof end))
        return 0;
    DWORD error = GetLastError();
    return error == ERROR_USER_MAPPED_FILE ? GIO_E_MAPPED : (int32_t)error;
}

static int32_t truncate_unlocked(gio_file *file)
{
    uint64_t size = 0;
    int32_t code = gio_os_file_size(file, &size);
    if (code == 0)
        code = gio_locks_check_resize(file, size, 0);
    return code ? code : gio_os_file_resize(file, 0);
}

int32_t gio_os_file_open(gio_file *file, const void *path, int32_t access, int32_t create, int32_t direct,
                         int32_t durable, gio_file_facts *facts)
{
    DWORD rights = (access & GIO_ACCESS_READ ? GENERIC_READ : 0) | (access & GIO_ACCESS_WRITE ? GENERIC_WRITE : 0);
    int through = durable || direct != GIO_DIRECT_NO;
    HANDLE first, transfers, ragged;
    int created = 0;

    memset(facts, 0, sizeof *facts);
    int32_t code = open_first(path, rights, create, FILE_FLAG_OVERLAPPED | (through ? FILE_FLAG_WRITE_THROUGH : 0),
                              &first, &created);
    if (first == INVALID_HANDLE_VALUE)
        return code;
    transfers = ragged = first;
    if (code == 0) {
        find_facts(file, first, facts);
        code = open_handles(first, rights, direct, durable, &transfers, &ragged, facts);
    }
    file->buffered_handle = (int64_t)(intptr_t)ragged;
    if (code == 0 && create == GIO_OPEN_TRUNCATE && !created)
        code = truncate_unlocked(file);
    if (code) {
        if (transfers != ragged)
            CloseHandle(transfers);
        CloseHandle(ragged);
        if (created)
            DeleteFileW(path);
        return code;
    }
    facts->created = created;
    file->writes_through = 1;
    file->handle = facts->handle = (int64_t)(intptr_t)transfers;
    return 0;
}

static int32_t close_handle(int64_t handle) { return CloseHandle(as_handle(handle)) ? 0 : (int32_t)GetLastError(); }

int32_t gio_os_file_close(gio_file *file, int32_t gives_back)
{
    (void)gives_back; /* with the last handle NTFS frees what is allocated beyond the end */
    int32_t code = file->handle != file->buffered_handle ? close_handle(file->handle) : 0;
    int32_t other = close_handle(file->buffered_handle);
    return code ? code : other;
}

/* ---- files: length and stable storage ------------------------------------------------------------------- */

int32_t gio_os_file_size(gio_file *file, uint64_t *size)
{
    LARGE_INTEGER found;
    if (!GetFileSizeEx(as_handle(file->buffered_handle), &found))
        return (int32_t)GetLastError();
    *size = (uint64_t)found.QuadPart;
    return 0;
}

int32_t gio_os_file_resize(gio_file *file, uint64_t size) { return gio_set_end(as_handle(file->buffered_handle), size); }

/* Where a file system cannot reserve, one that cannot fit is refused now; that it will fit nobody promises. */
static int32_t check_room(HANDLE handle, uint64_t more)
{
    ULARGE_INTEGER available;
    wchar_t *path = malloc(PATH_CAPACITY * sizeof *path);
    int32_t code = path && find_folder(handle, path, PATH_CAPACITY) &&
                           GetDiskFreeSpaceExW(path, &available, NULL, NULL) && available.QuadPart < more
                       ? ERROR_DISK_FULL
                       : 0;
    free(path);
    return code;
}

/* Never to less than the file is long: a smaller allocation cuts it. */
static int32_t allocate(HANDLE handle, uint64_t size, int32_t *reserved)
{
    FILE_ALLOCATION_INFO allocation;
    FILE_STANDARD_INFO has;

    if (!GetFileInformationByHandleEx(handle, FileStandardInfo, &has, sizeof has))
        return (int32_t)GetLastError();
    uint64_t end = (uint64_t)has.EndOfFile.QuadPart, allocated = (uint64_t)has.AllocationSize.QuadPart;
    *reserved = size <= allocated;
    if (*reserved)
        return 0;
    allocation.AllocationSize.QuadPart = (LONGLONG)gio_max(size, end);
    *reserved = SetFileInformationByHandle(handle, FileAllocationInfo, &allocation, sizeof allocation) != 0;
    if (*reserved)
        return 0;
    DWORD error = GetLastError();
    if (error == ERROR_DISK_FULL || error == ERROR_HANDLE_DISK_FULL || error == DISK_QUOTA_EXCEEDED ||
        error == ERROR_ACCESS_DENIED || error == ERROR_FILE_TOO_LARGE)
        return (int32_t)error;
    return check_room(handle, size - allocated);
}

/* A write under way, or started meanwhile, could make the file longer between the look at its end and the allocation. Against
 * a write of somebody else's behind `size` just then Windows has nothing. */
const int32_t gio_reserve_is_alone = 1;

int32_t gio_os_file_reserve(gio_file *file, uint64_t size, int32_t *reserved)
{
    *reserved = 0;
    return allocate(as_handle(file->buffered_handle), size, reserved);
}

int32_t gio_os_file_flush(gio_file *file)
{
    if (!file->writeable)
        return 0; /* Windows refuses; there is nothing of ours to flush */
    return FlushFileBuffers(as_handle(file->buffered_handle)) ? 0 : (int32_t)GetLastError();
}

void gio_os_drop_cache(gio_file *file, uint64_t offset, uint64_t length)
{
    (void)file; /* the cache manager gives up written pages by itself, and cannot be asked */
    (void)offset;
    (void)length;
}

/* ---- transfers ------------------------------------------------------------------------------------------ */

/* One element for each of `count` pages, and the NULL that ends them. */
static DWORD list_pages(gio_overlapped_call *call, const gio_segment *segments, uint64_t count)
{
    uint64_t page = page_bytes();

    if (call->capacity < count + 1) {
        FILE_SEGMENT_ELEMENT *grown = realloc(call->elements, (size_t)(count + 1) * sizeof *grown);
        if (grown == NULL)
            return ERROR_NOT_ENOUGH_MEMORY;
        call->elements = grown;
        call->capacity = count + 1;
    }
    uint64_t within = 0;
    for (uint64_t i = 0; i < count; i++) {
        call->elements[i].Alignment = segments->address + within; /* all 64 bits of it, whatever a pointer has */
        within += page;
        if (within == segments->length) {
            segments++;
            within = 0;
        }
    }
    call->elements[count].Alignment = 0;
    return 0;
}

DWORD gio_overlapped_issue(gio_overlapped_call *call, const gio_request *request)
{
    const gio_segment *segments = &request->segments[request->segment_first];
    uint64_t count = request->segment_count - request->segment_first, nbytes = 0;
    uint64_t offset = request->piece.file_offset + request->from;
    HANDLE handle = as_handle(gio_request_handle(request)), event = call->overlapped.hEvent;
    int writes = request->operation->direction == GIO_WRITE;
    BOOL done;

    if (request->piece.route == GIO_RAGGED)
        count = 1; /* through the cache one run at a time: the rest is resumed */
    for (uint64_t i = 0; i < count; i++)
        nbytes += segments[i].length;
    nbytes = gio_min(nbytes, request->most);
    if (count > 1) {
        DWORD error = list_pages(call, segments, nbytes / page_bytes());
        if (error)
            return error;
    }
    memset(&call->overlapped, 0, sizeof call->overlapped);
    call->overlapped.Offset = (DWORD)offset;
    call->overlapped.OffsetHigh = (DWORD)(offset >> 32);
    call->overlapped.hEvent = event;
    void *address = (void *)(uintptr_t)segments->address;
    if (count > 1 && writes)
        done = WriteFileGather(handle, call->elements, (DWORD)nbytes, NULL, &call->overlapped);
    else if (count > 1)
        done = ReadFileScatter(handle, call->elements, (DWORD)nbytes, NULL, &call->overlapped);
    else if (writes)
        done = WriteFile(handle, address, (DWORD)nbytes, NULL, &call->overlapped);
    else
        done = ReadFile(handle, address, (DWORD)nbytes, NULL, &call->overlapped);
    if (done)
        return 0; /* finished already; its completion comes all the same */
    DWORD error = GetLastError();
    return error == ERROR_IO_PENDING ? 0 : error;
}

int64_t gio_overlapped_failure(const gio_request *request, DWORD error)
{
    return error == ERROR_HANDLE_EOF && request->operation->direction == GIO_READ ? 0 : -(int64_t)error;
}

int64_t gio_overlapped_result(gio_overlapped_call *call, const gio_request *request, BOOL wait)
{
    DWORD transferred = 0;
    if (GetOverlappedResult(as_handle(gio_request_handle(request)), &call->overlapped, &transferred, wait))
        return transferred;
    return gio_overlapped_failure(request, GetLastError());
}

void gio_overlapped_free(gio_overlapped_call *call)
{
    free(call->elements);
}

/* For `sync`: the handle is overlapped all the same, so wait for its event. */
int64_t gio_os_transfer(const gio_request *request)
{
    gio_overlapped_call call;
    int64_t result;

    memset(&call, 0, sizeof call);
    call.overlapped.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (call.overlapped.hEvent == NULL)
        return -(int64_t)GetLastError();
    DWORD error = gio_overlapped_issue(&call, request);
    result = error ? gio_overlapped_failure(request, error) : gio_overlapped_result(&call, request, TRUE);
    CloseHandle(call.overlapped.hEvent);
    gio_overlapped_free(&call);
    return result;
}

/* ---- events --------------------------------------------------------------------------------------------- */

struct gio_event {
    HANDLE handle;
};

int32_t gio_event_create(gio_event **out)
{
    gio_event *event = malloc(sizeof *event);
    if (event == NULL)
        return ERROR_NOT_ENOUGH_MEMORY;
    event->handle = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (event->handle == NULL) {
        int32_t code = (int32_t)GetLastError();
        free(event);
        return code;
    }
    *out = event;
    return 0;
}

int64_t gio_event_handle(gio_event *event)
{
    (void)event;
    return -1; /* no poll loop of Windows takes it */
}

void gio_event_set(gio_event *event) { SetEvent(event->handle); }
void gio_event_clear(gio_event *event) { ResetEvent(event->handle); }

int32_t gio_event_wait(gio_event *event, int64_t timeout_ns)
{
    DWORD result = WaitForSingleObject(event->handle, gio_milliseconds(timeout_ns));
    return result == WAIT_OBJECT_0 ? 0 : result == WAIT_TIMEOUT ? GIO_E_TIMEOUT : (int32_t)GetLastError();
}

void gio_event_free(gio_event *event)
{
    if (event == NULL)
        return;
    CloseHandle(event->handle);
    free(event);
}

void gio_event_let_go(gio_event **place)
{
    gio_event_free(*place);
    *place = NULL;
}

/* ---- what this system has ------------------------------------------------------------------------------- */

const gio_backend *const gio_backends[] = {&gio_backend_iocp, &gio_backend_sync, NULL};
