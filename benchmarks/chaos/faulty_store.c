/* Loaded before a process's libraries (LD_PRELOAD): writes below one folder fail or take long, as the shared control
   says. Every process of a cluster sees the same control and counts together. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

struct control {
    _Atomic uint32_t every;    /* each such write fails; 0 for none */
    _Atomic uint32_t delay_us; /* of each write */
    _Atomic uint32_t writes;   /* so far */
    _Atomic uint32_t failed;   /* of them */
};

static struct control *control;
static const char *folder;

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("COEVO_RAY_CHAOS_CONTROL");
    folder = getenv("COEVO_RAY_CHAOS_STORE");
    if (!file || !folder)
        return;
    int number = open(file, O_RDWR);
    if (number < 0)
        return;
    void *found = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, number, 0);
    close(number);
    if (found != MAP_FAILED)
        control = found;
}

/* Whether this write is to fail. */
static int strikes(int number) {
    if (!control || (!control->every && !control->delay_us))
        return 0;
    char link[64], path[4096];
    int error = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", number);
    ssize_t size = readlink(link, path, sizeof path - 1);
    errno = error;
    if (size <= 0)
        return 0;
    path[size] = 0;
    if (strncmp(path, folder, strlen(folder)) != 0)
        return 0;
    if (control->delay_us)
        usleep(control->delay_us);
    uint32_t count = atomic_fetch_add(&control->writes, 1) + 1, every = control->every;
    if (!every || count % every)
        return 0;
    atomic_fetch_add(&control->failed, 1);
    errno = EIO;
    return 1;
}

#define REAL(name) (real = real ? real : (__typeof__(real))dlsym(RTLD_NEXT, name))

ssize_t write(int number, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    REAL("write");
    return strikes(number) ? -1 : real(number, data, size);
}

ssize_t writev(int number, const struct iovec *parts, int count) {
    static ssize_t (*real)(int, const struct iovec *, int);
    REAL("writev");
    return strikes(number) ? -1 : real(number, parts, count);
}

ssize_t pwrite(int number, const void *data, size_t size, off_t at) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    REAL("pwrite");
    return strikes(number) ? -1 : real(number, data, size, at);
}

ssize_t pwrite64(int number, const void *data, size_t size, off_t at) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    REAL("pwrite64");
    return strikes(number) ? -1 : real(number, data, size, at);
}

/* Copies within the kernel count, too: libraries fall back to plain writes. */
ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    static ssize_t (*real)(int, int, off_t *, size_t);
    REAL("sendfile");
    return strikes(to) ? -1 : real(to, from, at, size);
}
