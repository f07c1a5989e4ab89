/* Lock one's own memory for as long as a file system does not answer, as any user may: the file system is this program's own
 * (FUSE). While it runs, ps and everything else that reads this process's arguments hangs: in a guest of the lab only.
 *
 *     lock_memory SECONDS      prints the pid of the process whose memory is locked
 *
 * One process serves the file system and never answers READ. One reads the first page, which is locked until it is read. One
 * maps the file, which was opened for direct I/O: the kernel first throws away what is cached, waits for that page, and has
 * the memory of the process locked meanwhile (fuse_file_mmap, invalidate_inode_pages2). After SECONDS the server ends, and the
 * kernel aborts all that waits for it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define POINT "/tmp/lock-memory"

static int dev;

static void fail(const char *what) { perror(what); exit(1); }

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) fail(path);
    close(fd);
}

static void answer(struct fuse_in_header *to, int error, const void *data, size_t size)
{
    char text[4096];
    struct fuse_out_header head = {sizeof head + size, error, to->unique};
    memcpy(text, &head, sizeof head);
    if (size) memcpy(text + sizeof head, data, size);
    if (write(dev, text, sizeof head + size) < 0 && errno != ENOENT) fail("answer");
}

static struct fuse_attr about(uint64_t node)
{
    return (struct fuse_attr){.ino = node, .size = 1 << 20, .nlink = 1, .blksize = 4096,
                              .mode = node == 1 ? S_IFDIR | 0755 : S_IFREG | 0666};
}

static void serve(unsigned seconds)
{
    static char text[1 << 18];
    int opens = 0;
    alarm(seconds);
    while (read(dev, text, sizeof text) > 0 || errno == EINTR || errno == ENOENT) {
        struct fuse_in_header *in = (void *)text;
        struct fuse_init_out init = {.major = 7, .minor = 31, .max_write = 65536, .time_gran = 1};
        struct fuse_entry_out entry = {.nodeid = 2, .attr_valid = 3600, .entry_valid = 3600, .attr = about(2)};
        struct fuse_attr_out attr = {.attr_valid = 3600, .attr = about(in->nodeid)};
        struct fuse_open_out opened = {.fh = opens + 1, .open_flags = FOPEN_KEEP_CACHE};
        switch (in->opcode) {
        case FUSE_INIT: answer(in, 0, &init, sizeof init); break;
        case FUSE_LOOKUP: answer(in, 0, &entry, sizeof entry); break;
        case FUSE_GETATTR: answer(in, 0, &attr, sizeof attr); break;
        case FUSE_OPEN: /* the first one maps: FUSE throws away what is cached of a direct file, which waits for the page */
            if (!opens++) opened.open_flags = FOPEN_DIRECT_IO;
            answer(in, 0, &opened, sizeof opened);
            break;
        case FUSE_READ: case FUSE_FORGET: case FUSE_BATCH_FORGET: case FUSE_INTERRUPT: break;
        default: answer(in, -ENOSYS, NULL, 0);
        }
    }
    exit(0);
}

int main(int argc, char **argv)
{
    char text[100];
    int fd, uid = getuid(), gid = getgid();
    if (argc != 2) return 2;
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) fail("unshare");
    put("/proc/self/setgroups", "deny");
    snprintf(text, sizeof text, "0 %d 1", uid); put("/proc/self/uid_map", text);
    snprintf(text, sizeof text, "0 %d 1", gid); put("/proc/self/gid_map", text);
    if ((dev = open("/dev/fuse", O_RDWR)) < 0) fail("/dev/fuse");
    mkdir(POINT, 0755);
    snprintf(text, sizeof text, "fd=%d,rootmode=40000,user_id=0,group_id=0", dev);
    if (mount("own", POINT, "fuse", MS_NOSUID | MS_NODEV, text)) fail("mount");
    if (!fork()) serve(atoi(argv[1]));
    close(dev);
    if ((fd = open(POINT "/file", O_RDWR)) < 0) fail("open");
    if (!fork()) {
        char byte;
        int other = open(POINT "/file", O_RDONLY);
        if (other < 0 || read(other, &byte, 1) < 0) perror("read");
        _exit(0);
    }
    sleep(1);
    prctl(PR_SET_NAME, "qemu-system-x86");
    printf("%d\n", getpid());
    fflush(stdout);
    mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    pause();
    return 0;
}
