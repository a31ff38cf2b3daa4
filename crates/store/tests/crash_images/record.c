/* Records what a process writes below one directory, in order: the input of crash_images.rs.
 *
 * Preloaded; HYPERION_TRACE_DIR names the directory, HYPERION_TRACE the file the records go to. A record is
 *
 *   kind u8, file u8, two zero bytes, length u32, offset u64 (host order), then `length` bytes
 *
 * kind 1: a write; 2: a barrier (fsync, fdatasync); 3: a write that is its own barrier (O_DSYNC);
 * 4: a truncation to `offset`; 5: the file's path below the directory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FDS = 1024, FILES = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int trace = -1;
static unsigned char file_of[FDS]; /* 0: not below the directory */
static unsigned char is_dsync[FDS];
static char *names[FILES];

static void put(const void *bytes, size_t length) {
    const char *at = bytes;
    while (length > 0) {
        long n = syscall(SYS_write, trace, at, length);
        if (n <= 0) abort();
        at += n;
        length -= (size_t)n;
    }
}

static void record(unsigned char kind, unsigned char file, uint64_t offset, const struct iovec *parts, int count) {
    uint32_t length = 0;
    for (int i = 0; i < count; i++) length += (uint32_t)parts[i].iov_len;
    unsigned char head[16] = {kind, file, 0, 0};
    memcpy(head + 4, &length, 4);
    memcpy(head + 8, &offset, 8);
    put(head, sizeof head);
    for (int i = 0; i < count; i++) put(parts[i].iov_base, parts[i].iov_len);
}

static int opened(int fd, const char *path, int flags) {
    const char *dir = getenv("HYPERION_TRACE_DIR"), *to = getenv("HYPERION_TRACE");
    if (fd < 0 || fd >= FDS || !dir || !to) return fd;
    size_t prefix = strlen(dir);
    file_of[fd] = 0;
    if (strncmp(path, dir, prefix) != 0 || path[prefix] != '/') return fd;
    pthread_mutex_lock(&lock);
    if (trace < 0) trace = (int)syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    const char *name = path + prefix + 1;
    unsigned char file = 1;
    while (file < FILES && names[file] && strcmp(names[file], name) != 0) file++;
    if (file == FILES) abort();
    if (!names[file]) {
        names[file] = strdup(name);
        struct iovec part = {names[file], strlen(name)};
        record(5, file, 0, &part, 1);
    }
    file_of[fd] = file;
    is_dsync[fd] = (flags & O_DSYNC) != 0;
    pthread_mutex_unlock(&lock);
    return fd;
}

static int known(int fd) { return fd >= 0 && fd < FDS ? file_of[fd] : 0; }

/* Writes through `call` and records what was written; a short write is recorded as short. */
static ssize_t wrote(int fd, uint64_t offset, const struct iovec *parts, int count, long result) {
    if (result <= 0) return result;
    struct iovec taken[1024];
    size_t left = (size_t)result;
    int n = 0;
    for (; n < count && left > 0; n++) {
        taken[n] = parts[n];
        if (taken[n].iov_len > left) taken[n].iov_len = left;
        left -= taken[n].iov_len;
    }
    record(is_dsync[fd] ? 3 : 1, (unsigned char)known(fd), offset, taken, n);
    return result;
}

#define OPEN(path, flags)                                                       \
    mode_t mode = 0;                                                            \
    if ((flags) & O_CREAT) {                                                    \
        va_list rest;                                                           \
        va_start(rest, flags);                                                  \
        mode = va_arg(rest, mode_t);                                            \
        va_end(rest);                                                           \
    }                                                                           \
    return opened((int)syscall(SYS_openat, AT_FDCWD, path, flags, mode), path, flags)

int open(const char *path, int flags, ...) { OPEN(path, flags); }
int open64(const char *path, int flags, ...) { OPEN(path, flags); }

#define RECORDED(call, offset, parts, count)                                    \
    do {                                                                        \
        if (!known(fd)) return call;                                            \
        pthread_mutex_lock(&lock);                                              \
        ssize_t result = wrote(fd, offset, parts, count, call);                 \
        pthread_mutex_unlock(&lock);                                            \
        return result;                                                          \
    } while (0)

#define HERE ((uint64_t)syscall(SYS_lseek, fd, 0L, SEEK_CUR))

ssize_t write(int fd, const void *bytes, size_t length) {
    struct iovec part = {(void *)bytes, length};
    uint64_t at = known(fd) ? HERE : 0;
    RECORDED(syscall(SYS_write, fd, bytes, length), at, &part, 1);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    uint64_t at = known(fd) ? HERE : 0;
    RECORDED(syscall(SYS_writev, fd, parts, count), at, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    struct iovec part = {(void *)bytes, length};
    RECORDED(syscall(SYS_pwrite64, fd, bytes, length, offset), (uint64_t)offset, &part, 1);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return pwrite64(fd, bytes, length, offset); }

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    RECORDED(syscall(SYS_pwritev, fd, parts, count, offset, 0L), (uint64_t)offset, parts, count);
}

static int barrier(int fd, long result) {
    if (result == 0 && known(fd)) {
        pthread_mutex_lock(&lock);
        record(2, (unsigned char)known(fd), 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return (int)result;
}

int fdatasync(int fd) { return barrier(fd, syscall(SYS_fdatasync, fd)); }
int fsync(int fd) { return barrier(fd, syscall(SYS_fsync, fd)); }

int ftruncate64(int fd, off64_t length) {
    long result = syscall(SYS_ftruncate, fd, length);
    if (result == 0 && known(fd)) {
        pthread_mutex_lock(&lock);
        record(4, (unsigned char)known(fd), (uint64_t)length, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return (int)result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }
