/* Clock fault injection: loaded into a node before the C library (LD_PRELOAD).
 *
 * FAULTY_CLOCK names a file of five 64-bit numbers in the order of struct orders. The rig writes the file, and
 * this library maps it. Without the file nothing changes.
 *
 * All clocks run at the rate, counted from the anchor, so that a change of the rate causes no jump. The wall
 * clock is shifted in addition. Waits use the process's own time: timeouts are divided by the rate, and
 * deadlines are converted to the system's clocks.
 *
 * A wait in progress keeps the rate with which it began.
 *
 * Not covered: timerfd, sem_timedwait and mutexes with a deadline. Hearth uses none of them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define MILLION 1000000LL

struct orders {
    /* Odd while the other fields are being written. */
    volatile uint64_t version;
    /* The rate of all clocks, in millionths of the real one. */
    volatile int64_t rate;
    /* The system's CLOCK_MONOTONIC at which the rate began, in nanoseconds. */
    volatile int64_t anchor;
    /* The lead of the process's clocks at that moment, in nanoseconds. */
    volatile int64_t ahead;
    /* The additional shift of the wall clock, in nanoseconds. */
    volatile int64_t shift;
};

static const struct orders *orders;

typedef int (*gettime_call)(clockid_t, struct timespec *);

static gettime_call system_gettime(void) {
    static gettime_call found;
    if (found == NULL) {
        found = (gettime_call)dlsym(RTLD_NEXT, "clock_gettime");
    }
    return found;
}

__attribute__((constructor)) static void map_orders(void) {
    const char *path = getenv("FAULTY_CLOCK");
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        void *at = mmap(NULL, sizeof *orders, PROT_READ, MAP_SHARED, fd, 0);
        orders = at == MAP_FAILED ? NULL : at;
        close(fd);
    }
}

static int64_t nanos(const struct timespec *time) {
    return time->tv_sec * SECOND + time->tv_nsec;
}

static struct timespec spec(int64_t nanos) {
    struct timespec time = {nanos / SECOND, nanos % SECOND};
    if (time.tv_nsec < 0) {
        time.tv_sec -= 1;
        time.tv_nsec += SECOND;
    }
    return time;
}

/* Returns a consistent copy of the orders. */
static struct orders now_ordered(void) {
    struct orders seen = {0, MILLION, 0, 0, 0};
    if (orders == NULL) {
        return seen;
    }
    for (;;) {
        uint64_t version = orders->version;
        __sync_synchronize();
        seen.rate = orders->rate;
        seen.anchor = orders->anchor;
        seen.ahead = orders->ahead;
        seen.shift = orders->shift;
        __sync_synchronize();
        if (version % 2 == 0 && version == orders->version) {
            return seen;
        }
    }
}

/* Returns the lead of the process's clock over the system's, in nanoseconds. */
static int64_t ahead(const struct orders *now, clockid_t clock) {
    struct timespec time;
    system_gettime()(CLOCK_MONOTONIC, &time);
    int64_t passed = nanos(&time) - now->anchor;
    int64_t ahead = now->ahead + (int64_t)((__int128)passed * (now->rate - MILLION) / MILLION);
    int is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
    return ahead + (is_wall ? now->shift : 0);
}

static int is_shifted(clockid_t clock) {
    return orders != NULL && clock != CLOCK_PROCESS_CPUTIME_ID && clock != CLOCK_THREAD_CPUTIME_ID && clock >= 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = system_gettime()(clock, time);
    if (result == 0 && is_shifted(clock)) {
        struct orders now = now_ordered();
        *time = spec(nanos(time) + ahead(&now, clock));
    }
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec found;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &found) == 0) {
        time->tv_sec = found.tv_sec;
        time->tv_usec = found.tv_nsec / 1000;
    }
    return 0;
}

time_t time(time_t *at) {
    struct timespec found = {0, 0};
    clock_gettime(CLOCK_REALTIME, &found);
    if (at != NULL) {
        *at = found.tv_sec;
    }
    return found.tv_sec;
}

/* Converts a span of the process's time to the system's. */
static int64_t system_span(int64_t span) {
    struct orders now = now_ordered();
    return span <= 0 ? span : (int64_t)((__int128)span * MILLION / now.rate);
}

/* Converts a moment of the process's clock to the system's clock, at the current rate. */
static struct timespec system_moment(clockid_t clock, const struct timespec *moment) {
    struct timespec time;
    struct orders now = now_ordered();
    if (!is_shifted(clock)) {
        return *moment;
    }
    system_gettime()(clock, &time);
    int64_t left = nanos(moment) - nanos(&time) - ahead(&now, clock);
    if (left > 0) {
        left = (int64_t)((__int128)left * MILLION / now.rate);
    }
    return spec(nanos(&time) + left);
}

static int system_millis(int millis) {
    if (millis <= 0) {
        return millis;
    }
    int64_t span = system_span(millis * MILLION);
    /* Rounded up, so that the wait does not end early. */
    return (int)((span + MILLION - 1) / MILLION);
}

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

int epoll_wait(int fd, struct epoll_event *events, int max, int millis) {
    typedef int (*call)(int, struct epoll_event *, int, int);
    static call next;
    if (next == NULL) {
        next = NEXT(call, "epoll_wait");
    }
    return next(fd, events, max, system_millis(millis));
}

int epoll_pwait(int fd, struct epoll_event *events, int max, int millis, const sigset_t *mask) {
    typedef int (*call)(int, struct epoll_event *, int, int, const sigset_t *);
    return NEXT(call, "epoll_pwait")(fd, events, max, system_millis(millis), mask);
}

int poll(struct pollfd *fds, nfds_t count, int millis) {
    typedef int (*call)(struct pollfd *, nfds_t, int);
    return NEXT(call, "poll")(fds, count, system_millis(millis));
}

/* The remaining time is not converted to the process's time, because no caller reads it. */
int nanosleep(const struct timespec *span, struct timespec *left) {
    typedef int (*call)(const struct timespec *, struct timespec *);
    struct timespec own = spec(system_span(nanos(span)));
    return NEXT(call, "nanosleep")(&own, left);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
    typedef int (*call)(clockid_t, int, const struct timespec *, struct timespec *);
    struct timespec own =
        flags & TIMER_ABSTIME ? system_moment(clock, until) : spec(system_span(nanos(until)));
    return NEXT(call, "clock_nanosleep")(clock, flags, &own, left);
}

/* The C library has an older version of this function too, which must not be called. */
int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    typedef int (*call)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    static call next;
    if (next == NULL) {
        next = (call)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    }
    if (next == NULL) {
        next = NEXT(call, "pthread_cond_timedwait");
    }
    struct timespec own = system_moment(CLOCK_REALTIME, until);
    return next(condition, mutex, &own);
}

int pthread_cond_clockwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, clockid_t clock,
                           const struct timespec *restrict until) {
    typedef int (*call)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
    struct timespec own = system_moment(clock, until);
    return NEXT(call, "pthread_cond_clockwait")(condition, mutex, clock, &own);
}

/* Rust's standard library waits through this call until a moment of CLOCK_MONOTONIC. */
long syscall(long number, ...) {
    typedef long (*call)(long, ...);
    static call next;
    long arguments[6];
    struct timespec own;
    va_list list;
    va_start(list, number);
    for (int at = 0; at < 6; at++) {
        arguments[at] = va_arg(list, long);
    }
    va_end(list);
    if (next == NULL) {
        next = NEXT(call, "syscall");
    }
    if (number == SYS_futex && arguments[3] != 0) {
        long op = arguments[1] & FUTEX_CMD_MASK;
        const struct timespec *until = (const struct timespec *)arguments[3];
        if (op == FUTEX_WAIT_BITSET) {
            clockid_t clock = arguments[1] & FUTEX_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC;
            own = system_moment(clock, until);
            arguments[3] = (long)&own;
        } else if (op == FUTEX_WAIT) {
            own = spec(system_span(nanos(until)));
            arguments[3] = (long)&own;
        }
    }
    return next(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}
