/* Disk fault injection: loaded before the C library (LD_PRELOAD), it makes calls on the files of one
 * directory fail. The tests that use it compile it. RocksDB's info log, LOG, is spared: no guarantee depends
 * on it, and it would use up a failure that is meant for another file.
 *
 * FAILING_DISK_FOLDER   calls on files below this directory may fail
 * FAILING_DISK_ORDER    a file with the order KIND ERRNO TIMES, where KIND is "sync" or "write" and TIMES a
 *                       number; it is read before each call; without it no call fails
 * FAILING_DISK_LOG      a file that receives the line "failed CALL FILE" for each call that failed, and after
 *                       the first failure the line "synced CALL FILE" for each sync that passes
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum kind { SYNC, WRITE };

static atomic_int failures;

/* Returns 1 and the path of the file behind `fd` if it is in the directory. */
static int in_folder(int fd, char *path, size_t size) {
    const char *folder = getenv("FAILING_DISK_FOLDER");
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, size - 1);
    if (folder == NULL || len < 0) {
        return 0;
    }
    path[len] = 0;
    const char *name = strrchr(path, '/');
    return strncmp(path, folder, strlen(folder)) == 0 && (name == NULL || strcmp(name, "/LOG") != 0);
}

static void note(const char *what, const char *call, const char *path) {
    const char *log = getenv("FAILING_DISK_LOG");
    char line[4200];
    int len = snprintf(line, sizeof line, "%s %s %s\n", what, call, path);
    if (log == NULL || len < 0) {
        return;
    }
    int fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd >= 0) {
        syscall(SYS_write, fd, line, (size_t)len);
        syscall(SYS_close, fd);
    }
}

/* Returns 1 and sets errno if this call must fail. */
static int fails(enum kind kind, const char *call, int fd) {
    const char *file = getenv("FAILING_DISK_ORDER");
    int saved = errno;
    char path[4096], order[64], word[16];
    int error = 0, times = 0;
    if (file == NULL || !in_folder(fd, path, sizeof path)) {
        errno = saved;
        return 0;
    }
    int source = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDONLY, 0);
    ssize_t len = 0;
    if (source >= 0) {
        len = syscall(SYS_read, source, order, sizeof order - 1);
        syscall(SYS_close, source);
    }
    order[len > 0 ? len : 0] = 0;
    if (sscanf(order, "%15s %d %d", word, &error, &times) == 3 &&
        strcmp(word, kind == SYNC ? "sync" : "write") == 0 &&
        atomic_fetch_add(&failures, 1) < times) {
        note("failed", call, path);
        errno = error;
        return 1;
    }
    if (kind == SYNC && atomic_load(&failures) > 0) {
        note("synced", call, path);
    }
    errno = saved;
    return 0;
}

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

int fsync(int fd) {
    return fails(SYNC, "fsync", fd) ? -1 : NEXT(int (*)(int), "fsync")(fd);
}

int fdatasync(int fd) {
    return fails(SYNC, "fdatasync", fd) ? -1 : NEXT(int (*)(int), "fdatasync")(fd);
}

int sync_file_range(int fd, off64_t offset, off64_t len, unsigned flags) {
    typedef int (*call)(int, off64_t, off64_t, unsigned);
    return fails(SYNC, "sync_file_range", fd) ? -1
                                              : NEXT(call, "sync_file_range")(fd, offset, len, flags);
}

ssize_t write(int fd, const void *bytes, size_t len) {
    typedef ssize_t (*call)(int, const void *, size_t);
    return fails(WRITE, "write", fd) ? -1 : NEXT(call, "write")(fd, bytes, len);
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset) {
    typedef ssize_t (*call)(int, const void *, size_t, off_t);
    return fails(WRITE, "pwrite", fd) ? -1 : NEXT(call, "pwrite")(fd, bytes, len, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t offset) {
    typedef ssize_t (*call)(int, const void *, size_t, off64_t);
    return fails(WRITE, "pwrite64", fd) ? -1 : NEXT(call, "pwrite64")(fd, bytes, len, offset);
}
