/* For tests/support/dead_share.py: calls on places named by DEAD hang while the file DEAD_WHILE is there. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Plain system calls: the library must not meet itself. */
static long link_of(const char *path, char *out, size_t size)
{ long n = syscall(SYS_readlinkat, AT_FDCWD, path, out, size - 1); if (n >= 0) out[n] = 0; return n; }

static int dead(const char *path)
{
    const char *word = getenv("DEAD");
    size_t n;
    for (; word && *word; word += n + (word[n] == ':')) {
        n = strcspn(word, ":");
        if (!strncmp(path, word, n) && (!path[n] || path[n] == '/')) return 1;
    }
    return 0;
}
static void wait_path(int at, const char *path)
{
    char text[64], behind[4096], whole[8192];
    if (!path) return;
    if (path[0] != '/') {
        behind[0] = 0;
        if (at != AT_FDCWD) { snprintf(text, sizeof text, "/proc/self/fd/%d", at); link_of(text, behind, sizeof behind); }
        snprintf(whole, sizeof whole, "%s/%s", behind, path); path = whole;
    } else if (!strncmp(path, "/proc/", 6) && strstr(path, "/fd/") && link_of(path, behind, sizeof behind) >= 0) path = behind;
    while (dead(path) && syscall(SYS_faccessat, AT_FDCWD, getenv("DEAD_WHILE"), F_OK) == 0) usleep(10000);
}
static void wait_fd(int fd) { char text[64]; snprintf(text, sizeof text, "/proc/self/fd/%d", fd); wait_path(AT_FDCWD, text); }

#define REAL(type, name, ...) type (*real)(__VA_ARGS__) = dlsym(RTLD_NEXT, #name)
#define MODE mode_t mode = 0; if (flags & (O_CREAT | __O_TMPFILE)) { va_list l; va_start(l, flags); mode = va_arg(l, int); va_end(l); }
#define OPEN(name) int name(const char *path, int flags, ...) { REAL(int, name, const char *, int, mode_t); MODE \
    wait_path(AT_FDCWD, path); return real(path, flags, mode); }
#define OPENAT(name) int name(int at, const char *path, int flags, ...) { REAL(int, name, int, const char *, int, mode_t); MODE \
    wait_path(at, path); return real(at, path, flags, mode); }
#define PATH1(type, name, T) type name(const char *path, T a) { REAL(type, name, const char *, T); \
    wait_path(AT_FDCWD, path); return real(path, a); }
#define PATH0(type, name) type name(const char *path) { REAL(type, name, const char *); wait_path(AT_FDCWD, path); return real(path); }
#define AT2(name, T, U) int name(int at, const char *path, T a, U b) { REAL(int, name, int, const char *, T, U); \
    wait_path(at, path); return real(at, path, a, b); }
#define FD0(name) int name(int fd) { REAL(int, name, int); wait_fd(fd); return real(fd); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)
PATH1(int, stat, struct stat *) PATH1(int, stat64, struct stat64 *) PATH1(int, lstat, struct stat *) PATH1(int, lstat64, struct stat64 *)
PATH1(int, access, int) PATH1(int, mkdir, mode_t) PATH1(int, rename, const char *) PATH1(int, statfs, void *) PATH1(int, statvfs, void *)
PATH0(int, unlink) PATH0(int, rmdir) PATH0(DIR *, opendir)
AT2(fstatat, struct stat *, int) AT2(fstatat64, struct stat64 *, int) AT2(faccessat, int, int)
FD0(close) FD0(fsync) FD0(fdatasync)
int fstat(int fd, struct stat *out) { REAL(int, fstat, int, struct stat *); wait_fd(fd); return real(fd, out); }
int fstat64(int fd, struct stat64 *out) { REAL(int, fstat64, int, struct stat64 *); wait_fd(fd); return real(fd, out); }
ssize_t pread64(int fd, void *data, size_t n, off64_t at)
{ REAL(ssize_t, pread64, int, void *, size_t, off64_t); wait_fd(fd); return real(fd, data, n, at); }
off64_t lseek64(int fd, off64_t at, int how) { REAL(off64_t, lseek64, int, off64_t, int); wait_fd(fd); return real(fd, at, how); }
#define FCNTL(name) int name(int fd, int command, ...) { REAL(int, name, int, int, void *); va_list l; va_start(l, command); \
    void *a = va_arg(l, void *); if (command == F_OFD_SETLK || command == F_OFD_GETLK || command == F_SETLK) wait_fd(fd); \
    return real(fd, command, a); }
FCNTL(fcntl) FCNTL(fcntl64)
