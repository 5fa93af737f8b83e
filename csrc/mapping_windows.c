/* mapping_windows.c: sections, and the views that are mapped of them: CreateFileMapping, MapViewOfFile and their kin.
 *
 * Much of what mapping_linux.c has to build is the system's here: a section lives as long as a handle or a view of it
 * does, its name as long as a handle, whoever was killed; a mapped file is not cut shorter (ERROR_USER_MAPPED_FILE).
 *
 * What is left to do for names: whoever creates one writes its header before others look. They wait at a mutex that goes with
 * the name, its lock; Windows gives a dead owner's mutex to the next. A mutex belongs to the thread that has it: so nobody
 * comes out of a call with it.
 *
 * Names are in the Local\ namespace, that of one session. Services of several users share one, and so do programs started as
 * another user (runas). So what we make belongs to this user, whatever the token's default owner is (of an administrator the
 * group Administrators), and gives rights to nobody else; and what has the name already is asked for its owner, the lock before
 * anybody waits for it. Another user can take a name first, and then we have none. He cannot have us use his memory, or use ours.
 *
 * FlushViewOfFile only begins to write: FlushFileBuffers after it waits for the disk. Copies in and out of a file go through
 * ReadProcessMemory and WriteProcessMemory on this very process: where the disk or the network fails under a mapped page,
 * they answer with an error, and a load would be an exception.
 */
#include "os_windows.h"

#include <stdlib.h>
#include <string.h>

/* Windows 10 1703 wants to see it in every view of such a section; earlier ones ignore it. */
enum { VIEW_LARGE_PAGES = 0x20000000 };
enum { NAME_CAPACITY = 260, WAIT_MS = 50 };

typedef struct view {
    struct view *next;
    void *address;
} view;

struct gio_section {
    HANDLE file;         /* or INVALID_HANDLE_VALUE */
    HANDLE handle;       /* NULL: closed */
    DWORD access;        /* of views ... */
    DWORD protection;    /* ... and of their pages */
    int32_t closed;      /* takes no more calls ... */
    uint64_t calls;      /* ... and the handles go when these have left */
    view *views;
    int32_t held;        /* by its owner, until gio_section_free */
};

static SRWLOCK list_lock = SRWLOCK_INIT; /* guards the counts and the lists of views */

static void lock_list(void) { AcquireSRWLockExclusive(&list_lock); }
static void unlock_list(void) { ReleaseSRWLockExclusive(&list_lock); }

static void close_handles(gio_section *section)
{
    if (section->handle)
        CloseHandle(section->handle);
    if (section->file != INVALID_HANDLE_VALUE)
        CloseHandle(section->file);
    section->handle = NULL;
    section->file = INVALID_HANDLE_VALUE;
}

/* List locked. Gives back what nobody needs any more. */
static void settle(gio_section *section)
{
    if (section->closed && section->calls == 0)
        close_handles(section);
    if (section->closed && section->calls == 0 && !section->held && section->views == NULL)
        free(section);
}

/* Between enter and leave the handles stay open. */
static int32_t enter(gio_section *section)
{
    lock_list();
    int32_t code = section->closed ? GIO_E_CLOSED : 0;
    section->calls += code == 0;
    unlock_list();
    return code;
}

static void leave(gio_section *section)
{
    lock_list();
    section->calls--;
    settle(section);
    unlock_list();
}

/* ---- making sections ---------------------------------------------------------------------------------------- */

static DWORD protection(int32_t access, int32_t flags)
{
    static const DWORD plain[] = {PAGE_READONLY, PAGE_READWRITE, PAGE_WRITECOPY};
    static const DWORD execute[] = {PAGE_EXECUTE_READ, PAGE_EXECUTE_READWRITE, PAGE_EXECUTE_WRITECOPY};
    return flags & GIO_MAP_EXECUTE ? execute[access] : plain[access];
}

static DWORD section_flags(int32_t flags)
{
    DWORD committed = flags & GIO_MAP_RESERVE ? SEC_RESERVE : SEC_COMMIT;
    if (flags & GIO_MAP_LARGE_PAGES)
        committed |= SEC_LARGE_PAGES;
    return flags & GIO_MAP_NO_CACHE ? committed | SEC_NOCACHE : committed;
}

static int32_t new_section(int32_t access, int32_t flags, gio_section **out)
{
    static const DWORD views[] = {FILE_MAP_READ, FILE_MAP_READ | FILE_MAP_WRITE, FILE_MAP_COPY};
    gio_section *section = calloc(1, sizeof *section);
    if (section == NULL)
        return ERROR_NOT_ENOUGH_MEMORY;
    section->file = INVALID_HANDLE_VALUE;
    section->held = 1;
    section->protection = protection(access, flags);
    section->access = views[access] | (flags & GIO_MAP_EXECUTE ? FILE_MAP_EXECUTE : 0) |
                      (flags & GIO_MAP_LARGE_PAGES ? VIEW_LARGE_PAGES : 0);
    *out = section;
    return 0;
}

static void tell(uint64_t size, int32_t flags, int32_t created, gio_section_facts *facts)
{
    SYSTEM_INFO system;

    GetSystemInfo(&system);
    memset(facts, 0, sizeof *facts);
    facts->size = size;
    facts->granularity = flags & GIO_MAP_LARGE_PAGES ? GetLargePageMinimum() : system.dwAllocationGranularity;
    facts->created = created;
}

static int32_t identify(HANDLE file, gio_file_identity *identity)
{
    BY_HANDLE_FILE_INFORMATION information;
    if (!GetFileInformationByHandle(file, &information))
        return (int32_t)GetLastError();
    identity->device = information.dwVolumeSerialNumber;
    identity->inode = (uint64_t)information.nFileIndexHigh << 32 | information.nFileIndexLow;
    return 0;
}

static int32_t open_file(const wchar_t *path, int32_t access, int32_t flags, HANDLE *file, uint64_t *size)
{
    DWORD rights = GENERIC_READ | (access == GIO_MAP_WRITE ? GENERIC_WRITE : 0) |
                   (flags & GIO_MAP_EXECUTE ? GENERIC_EXECUTE : 0);
    LARGE_INTEGER end;

    *file = CreateFileW(path, rights, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL, OPEN_EXISTING,
                        FILE_ATTRIBUTE_NORMAL | GIO_NO_IMPERSONATION, NULL);
    if (*file == INVALID_HANDLE_VALUE) {
        DWORD error = GetLastError();
        DWORD attributes = error == ERROR_ACCESS_DENIED ? GetFileAttributesW(path) : INVALID_FILE_ATTRIBUTES;
        int is_folder = attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY);
        return is_folder ? GIO_FOLDER_NOT_SUPPORTED : (int32_t)error;
    }
    if (GetFileType(*file) != FILE_TYPE_DISK)
        return GIO_E_NO_FILE;
    if (!GetFileSizeEx(*file, &end))
        return (int32_t)GetLastError();
    *size = (uint64_t)end.QuadPart;
    return 0;
}

/* CreateFileMapping makes the file longer by itself, and fails where the disk is full. Should it fail behind that, the file
 * stays longer: to cut it would cut what somebody else has written there. */
int32_t gio_section_of_file(const void *path, int32_t access, int32_t flags, uint64_t size,
                            const gio_file_identity *expected, gio_section **out, gio_section_facts *facts)
{
    gio_section *section;
    gio_file_identity found = {0, 0};
    uint64_t before = 0;
    int32_t code = flags & (GIO_MAP_LARGE_PAGES | GIO_MAP_RESERVE) ? ERROR_NOT_SUPPORTED : 0;

    if (code == 0)
        code = new_section(access, flags, &section);
    if (code)
        return code;
    code = open_file(path, access, flags, &section->file, &before);
    if (code == 0)
        code = identify(section->file, &found);
    if (code == 0 && expected && (found.device != expected->device || found.inode != expected->inode))
        code = GIO_E_OTHER_FILE;
    if (code == 0 && size == 0 && before == 0)
        code = GIO_E_EMPTY;
    if (code == 0 && size > before && access != GIO_MAP_WRITE)
        code = GIO_E_BEYOND;
    if (code == 0) {
        size = size ? size : before;
        section->handle = CreateFileMappingW(section->file, NULL, protection(access, flags) | section_flags(flags),
                                             (DWORD)(size >> 32), (DWORD)size, NULL);
        if (section->handle == NULL)
            code = (int32_t)GetLastError();
    }
    if (code) {
        close_handles(section);
        free(section);
        return code;
    }
    tell(size, flags, 0, facts);
    facts->device = found.device;
    facts->inode = found.inode;
    *out = section;
    return 0;
}

/* ---- names ---------------------------------------------------------------------------------------------------- */

typedef struct {
    union {
        TOKEN_USER token;
        uint8_t room[sizeof(TOKEN_USER) + SECURITY_MAX_SID_SIZE];
    } user;
    union {
        ACL list;
        uint8_t room[sizeof(ACL) + sizeof(ACCESS_ALLOWED_ACE) + SECURITY_MAX_SID_SIZE];
    } rights;
    SECURITY_DESCRIPTOR descriptor;
    SECURITY_ATTRIBUTES attributes;
} security;

/* Whom the thread acts for: GetCurrentThreadEffectiveToken is his token, if it impersonates somebody. */
static int32_t find_user(security *ours)
{
    DWORD length;
    return GetTokenInformation(GetCurrentThreadEffectiveToken(), TokenUser, &ours->user, sizeof ours->user, &length)
               ? 0
               : (int32_t)GetLastError();
}

/* All rights for this user, who is the owner, none for anybody else, none inherited; handles that no child inherits. Not for
 * SYSTEM either: nothing of Windows needs it. */
static int32_t for_this_user_only(security *ours)
{
    SECURITY_DESCRIPTOR *descriptor = &ours->descriptor;
    int32_t code = find_user(ours);

    if (code)
        return code;
    if (!InitializeAcl(&ours->rights.list, sizeof ours->rights, ACL_REVISION) ||
        !AddAccessAllowedAce(&ours->rights.list, ACL_REVISION, GENERIC_ALL, ours->user.token.User.Sid) ||
        !InitializeSecurityDescriptor(descriptor, SECURITY_DESCRIPTOR_REVISION) ||
        !SetSecurityDescriptorOwner(descriptor, ours->user.token.User.Sid, FALSE) ||
        !SetSecurityDescriptorDacl(descriptor, TRUE, &ours->rights.list, FALSE) ||
        !SetSecurityDescriptorControl(descriptor, SE_DACL_PROTECTED, SE_DACL_PROTECTED))
        return (int32_t)GetLastError();
    ours->attributes.nLength = sizeof ours->attributes;
    ours->attributes.lpSecurityDescriptor = descriptor;
    ours->attributes.bInheritHandle = FALSE;
    return 0;
}

/* The handle has READ_CONTROL. */
static int32_t check_ours(HANDLE object, security *ours)
{
    union {
        SECURITY_DESCRIPTOR_RELATIVE descriptor;
        uint8_t room[sizeof(SECURITY_DESCRIPTOR_RELATIVE) + SECURITY_MAX_SID_SIZE];
    } found;
    PSID owner = NULL;
    BOOL by_default;
    DWORD length;

    if (!GetKernelObjectSecurity(object, OWNER_SECURITY_INFORMATION, &found, sizeof found, &length) ||
        !GetSecurityDescriptorOwner(&found, &owner, &by_default))
        return (int32_t)GetLastError();
    return owner && EqualSid(owner, ours->user.token.User.Sid) ? 0 : GIO_E_FOREIGN;
}

/* Another user's object that gives us no rights, or an object of another kind: all kinds share the names. */
static int32_t why_not_opened(DWORD error)
{
    return error == ERROR_ACCESS_DENIED || error == ERROR_INVALID_HANDLE ? GIO_E_FOREIGN : (int32_t)error;
}

static void object_name(wchar_t *out, const wchar_t *kind, const wchar_t *name)
{
    size_t at = 0;
    const wchar_t *const parts[] = {L"Local\\gatherio-", kind, name};
    for (int i = 0; i < 3; i++)
        for (const wchar_t *from = parts[i]; *from && at < NAME_CAPACITY - 1; from++)
            out[at++] = *from;
    out[at] = 0;
}

/* Not longer than Python may be kept from signals. */
static int32_t lock_name(const wchar_t *name, security *ours, HANDLE *name_lock)
{
    wchar_t full[NAME_CAPACITY];

    object_name(full, L"gate-", name); /* its name since there are names */
    *name_lock = CreateMutexExW(&ours->attributes, full, 0, SYNCHRONIZE | MUTEX_MODIFY_STATE | READ_CONTROL);
    if (*name_lock == NULL)
        return why_not_opened(GetLastError());
    int32_t code = check_ours(*name_lock, ours);
    if (code == 0) {
        DWORD result = WaitForSingleObject(*name_lock, WAIT_MS);
        if (result == WAIT_OBJECT_0 || result == WAIT_ABANDONED)
            return 0;
        code = result == WAIT_TIMEOUT ? GIO_E_INTERRUPTED : (int32_t)GetLastError();
    }
    CloseHandle(*name_lock);
    return code;
}

static void unlock_name(HANDLE name_lock)
{
    ReleaseMutex(name_lock);
    CloseHandle(name_lock);
}

/* The bytes that a section has; not less than asked for, and rounded up to whole pages. */
static uint64_t find_size(HANDLE section)
{
    typedef struct {
        void *base;
        ULONG attributes;
        LARGE_INTEGER size;
    } basic_information;
    typedef LONG(WINAPI * query)(HANDLE, int, void *, SIZE_T, SIZE_T *);
    basic_information information;
    query ask = (query)(void (*)(void))GetProcAddress(GetModuleHandleW(L"ntdll.dll"), "NtQuerySection");

    if (ask == NULL || ask(section, 0 /* SectionBasicInformation */, &information, sizeof information, NULL) < 0)
        return 0;
    return (uint64_t)information.size.QuadPart;
}

/* Before others see it. Memory that is only reserved is committed so far. */
static int32_t write_header(const gio_section *section, int32_t flags, const void *header, uint64_t header_bytes)
{
    SIZE_T mapped = (SIZE_T)(flags & GIO_MAP_LARGE_PAGES ? GetLargePageMinimum() : header_bytes);
    int32_t code = 0;
    void *start = MapViewOfFile(section->handle, section->access, 0, 0, mapped);

    if (start == NULL)
        return (int32_t)GetLastError();
    if (flags & GIO_MAP_RESERVE && VirtualAlloc(start, (SIZE_T)header_bytes, MEM_COMMIT, section->protection) == NULL)
        code = (int32_t)GetLastError();
    else
        memcpy(start, header, (size_t)header_bytes);
    UnmapViewOfFile(start);
    return code;
}

static int32_t create_named(gio_section *section, const wchar_t *full, security *ours, const void *header,
                            uint64_t header_bytes, int32_t flags, uint64_t size, int32_t *created)
{
    section->handle = CreateFileMappingW(INVALID_HANDLE_VALUE, &ours->attributes,
                                         section->protection | section_flags(flags), (DWORD)(size >> 32), (DWORD)size, full);
    DWORD error = GetLastError();
    if (section->handle == NULL)
        return why_not_opened(error);
    *created = error != ERROR_ALREADY_EXISTS;
    int32_t code = check_ours(section->handle, ours);
    return code == 0 && *created ? write_header(section, flags, header, header_bytes) : code;
}

static int32_t open_named(gio_section *section, const wchar_t *full, security *ours, int32_t access, int32_t flags)
{
    DWORD rights = SECTION_QUERY | READ_CONTROL |
                   (access == GIO_MAP_WRITE ? FILE_MAP_READ | FILE_MAP_WRITE : FILE_MAP_READ) |
                   (flags & GIO_MAP_EXECUTE ? FILE_MAP_EXECUTE : 0);

    section->handle = OpenFileMappingW(rights, FALSE, full);
    return section->handle ? check_ours(section->handle, ours) : why_not_opened(GetLastError());
}

static int32_t of_named_memory(gio_section *section, const wchar_t *name, const void *header, uint64_t header_bytes,
                               int32_t access, int32_t flags, uint64_t size, int32_t *created)
{
    wchar_t full[NAME_CAPACITY];
    security ours;
    HANDLE name_lock;
    int32_t code = for_this_user_only(&ours);

    if (code == 0)
        code = lock_name(name, &ours, &name_lock);
    if (code)
        return code;
    object_name(full, L"name-", name);
    code = header ? create_named(section, full, &ours, header, header_bytes, flags, size, created)
                  : open_named(section, full, &ours, access, flags);
    unlock_name(name_lock);
    return code;
}

static int32_t of_nameless_memory(gio_section *section, int32_t flags, uint64_t size)
{
    section->handle = CreateFileMappingW(INVALID_HANDLE_VALUE, NULL, section->protection | section_flags(flags),
                                         (DWORD)(size >> 32), (DWORD)size, NULL);
    return section->handle ? 0 : (int32_t)GetLastError();
}

int32_t gio_section_of_memory(const void *name, const void *header, uint64_t header_bytes, int32_t access, int32_t flags,
                              uint64_t size, gio_section **out, gio_section_facts *facts)
{
    gio_section *section;
    int32_t code = 0, created = name == NULL;

    if (flags & GIO_MAP_LARGE_PAGES && (header || name == NULL)) {
        if (GetLargePageMinimum() == 0)
            return ERROR_NOT_SUPPORTED;
        code = gio_enable_privilege(L"SeLockMemoryPrivilege");
        size = gio_round_up(size, GetLargePageMinimum());
    }
    if (code == 0)
        code = new_section(access, flags, &section);
    if (code)
        return code;
    code = name ? of_named_memory(section, name, header, header_bytes, access, flags, size, &created)
                : of_nameless_memory(section, flags, size);
    if (code) {
        close_handles(section);
        free(section);
        return code;
    }
    tell(created ? size : find_size(section->handle), flags, created, facts);
    *out = section;
    return 0;
}

/* Files are made long enough, and memory is committed, when they are mapped. */
int32_t gio_section_reserve(gio_section *section)
{
    (void)section;
    return 0;
}

/* CloseHandle tells nothing of what was written: FlushFileBuffers does. */
int32_t gio_section_close(gio_section *section)
{
    lock_list();
    section->closed = 1;
    settle(section);
    unlock_list();
    return 0;
}

void gio_section_free(gio_section *section)
{
    if (section == NULL)
        return;
    lock_list();
    section->closed = 1;
    section->held = 0;
    settle(section);
    unlock_list();
}

void gio_section_let_go(gio_section **place)
{
    gio_section_free(*place);
    *place = NULL;
}

/* ---- views ---------------------------------------------------------------------------------------------------- */

int32_t gio_section_map(gio_section *section, uint64_t offset, uint64_t nbytes, void **address)
{
    view *made = malloc(sizeof *made);
    int32_t code = made ? enter(section) : ERROR_NOT_ENOUGH_MEMORY;

    if (code) {
        free(made);
        return code;
    }
    made->address = MapViewOfFile(section->handle, section->access, (DWORD)(offset >> 32), (DWORD)offset, (SIZE_T)nbytes);
    if (made->address == NULL) {
        code = (int32_t)GetLastError();
        free(made);
    } else {
        *address = made->address;
        lock_list();
        made->next = section->views;
        section->views = made;
        unlock_list();
    }
    leave(section);
    return code;
}

void gio_section_unmap(gio_section *section, uint64_t nbytes, void **address)
{
    (void)nbytes;
    if (*address == NULL)
        return; /* and there may be no section any more */
    lock_list();
    view **at = &section->views, *found;
    while ((found = *at) != NULL && found->address != *address)
        at = &found->next;
    if (found) {
        *at = found->next;
        free(found);
    }
    UnmapViewOfFile(*address);
    *address = NULL;
    settle(section);
    unlock_list();
}

static int32_t flush_file(gio_section *section)
{
    if (section->file == INVALID_HANDLE_VALUE || FlushFileBuffers(section->file))
        return 0;
    return (int32_t)GetLastError();
}

int32_t gio_section_flush(gio_section *section, void *address, uint64_t nbytes)
{
    int32_t code = enter(section);
    if (code)
        return code;
    code = FlushViewOfFile(address, (SIZE_T)nbytes) ? flush_file(section) : (int32_t)GetLastError();
    leave(section);
    return code;
}

int32_t gio_section_flush_all(gio_section *section)
{
    int32_t code = enter(section);
    if (code)
        return code;
    lock_list(); /* no view goes meanwhile; this begins to write and does not wait */
    for (const view *at = section->views; at && code == 0; at = at->next)
        if (!FlushViewOfFile(at->address, 0))
            code = (int32_t)GetLastError();
    unlock_list();
    if (code == 0)
        code = flush_file(section);
    leave(section);
    return code;
}

/* Reading ahead is all that Windows takes advice about. VirtualUnlock of what is not locked takes pages out of the working
 * set; its error says that they were not locked. */
int32_t gio_section_advise(gio_section *section, void *address, uint64_t nbytes, int32_t advice)
{
    typedef struct {
        void *address;
        SIZE_T nbytes;
    } range;
    typedef BOOL(WINAPI * prefetch)(HANDLE, ULONG_PTR, range *, ULONG);
    range all = {address, (SIZE_T)nbytes};

    (void)section;
    if (advice == GIO_ADVICE_WILLNEED) { /* Windows 8; advice that cannot be taken is no error */
        prefetch ask = (prefetch)(void (*)(void))GetProcAddress(GetModuleHandleW(L"kernel32.dll"), "PrefetchVirtualMemory");
        if (ask)
            ask(GetCurrentProcess(), 1, &all, 0);
    } else if (advice == GIO_ADVICE_DONTNEED) {
        VirtualUnlock(address, (SIZE_T)nbytes);
    }
    return 0;
}

/* Through one view, and then they are for all, in every process. */
int32_t gio_section_commit(gio_section *section, void *address, uint64_t offset, uint64_t nbytes)
{
    (void)offset;
    if (VirtualAlloc(address, (SIZE_T)nbytes, MEM_COMMIT, section->protection) == NULL)
        return (int32_t)GetLastError();
    return 0;
}

int32_t gio_section_committed(gio_section *section, void *address, uint64_t offset, uint64_t nbytes)
{
    MEMORY_BASIC_INFORMATION region;
    char *at = address, *end = at + nbytes;

    (void)section;
    (void)offset;
    while (at < end) {
        if (VirtualQuery(at, &region, sizeof region) == 0)
            return (int32_t)GetLastError();
        if (region.State != MEM_COMMIT)
            return GIO_E_BEYOND;
        at = (char *)region.BaseAddress + region.RegionSize;
    }
    return 0;
}

/* ---- copies ---------------------------------------------------------------------------------------------------- */

int32_t gio_section_copy(gio_section *section, int32_t direction, void *view, void *memory, uint64_t nbytes,
                         uint64_t end)
{
    int32_t code = enter(section);
    LARGE_INTEGER size;
    SIZE_T done;
    int plainly = section->file == INVALID_HANDLE_VALUE && (direction & GIO_ANONYMOUS);

    if (code)
        return code;
    direction &= GIO_WRITE;
    if (plainly)
        memcpy(direction == GIO_READ ? memory : view, direction == GIO_READ ? view : memory, (size_t)nbytes);
    else if (direction == GIO_READ && !ReadProcessMemory(GetCurrentProcess(), view, memory, (SIZE_T)nbytes, &done))
        code = ERROR_READ_FAULT;
    else if (direction == GIO_WRITE && !WriteProcessMemory(GetCurrentProcess(), view, memory, (SIZE_T)nbytes, &done))
        code = ERROR_WRITE_FAULT;
    if (section->file != INVALID_HANDLE_VALUE && GetFileSizeEx(section->file, &size) && (uint64_t)size.QuadPart < end)
        code = GIO_E_SHRUNK; /* over a network, by somebody whose system does not know of us */
    leave(section);
    return code;
}
