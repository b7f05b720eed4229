"""How fast, and at what price: mail that flows through."""
from lab import Postfix, Waypost, median, paired, ratio


def compare(lab, report, size, mails, postfix_mails, asked_postfix, asked_direct=()):
    """waypost, Postfix and no relay at all in turn; the rows and the medians that all sizes are asked about."""
    ours, theirs, direct = [], [], []
    for _ in range(lab.rounds):
        direct.append(lab.direct(50, mails, 20, size))
        report.row('direct', direct[-1])
        ours.append(lab.flow(Waypost, 50, mails, 20, size))
        report.row('waypost', ours[-1])
        if lab.postfix:
            theirs.append(lab.flow(Postfix, 50, postfix_mails, 20, size))
            report.row('postfix', theirs[-1])
    if theirs:
        report.figure('rate, waypost / Postfix', ratio(median(ours, 'rate'), median(theirs, 'rate')), ('>=', asked_postfix[0]), asked_postfix[1], '%.1f')
    report.figure('rate, waypost / direct', ratio(median(ours, 'rate'), median(direct, 'rate')), *asked_direct)
    return ours, theirs


def small(lab, report):
    """4 KiB mail, 50 sessions of 20 messages, one next hop"""
    ours, theirs = compare(lab, report, 4096, 20000 if lab.quick else 60000, 2000 if lab.quick else 6000, (17, 25), (('>=', 0.25), 0.35))
    report.figure('CPU a message', median(ours, 'cpu_us'), ('<=', 100), 60, '%.1f', 'us')
    calls(lab, report, Waypost, 'system calls a message', 4096, ('<=', 12))
    if lab.postfix and not lab.quick:
        calls(lab, report, Postfix, 'system calls a message, Postfix', 4096, None)
    report.figure('context switches a message', median(ours, 'switches'), ('<=', 1))
    report.figure('syncs a message', median(ours, 'syncs'), ('<=', 0.15), form='%.3f')
    report.figure('cross-thread posts a message', median(ours, 'posts'), ('<=', 0.5))
    if theirs:
        report.figure('p99 of the 250, waypost / Postfix', ratio(median(ours, 'p99_us'), median(theirs, 'p99_us')), ('<=', 0.25))
    report.safe(ours)


def calls(lab, report, make, what, size, asked):
    n, by = lab.syscalls(make, 4000 if make is Waypost else 500, size)
    if n is None:
        report.note('%s: %s' % (what, by))
    else:
        report.figure('%s (by %s)' % (what, by), n, asked, form='%.1f')


def large(lab, report):
    """64 KiB mail, 50 sessions of 20 messages, one next hop"""
    ours, _ = compare(lab, report, 65536, 5000 if lab.quick else 15000, 1000 if lab.quick else 3000, (15, 22))
    report.figure('octets on the device / accepted', median(ours, 'written_ratio'), ('<=', 1.1))
    report.figure('CPU a message', median(ours, 'cpu_us'), None, form='%.1f', unit='us')
    report.safe(ours)


def single(lab, report):
    """one session alone, 4 KiB mail: how long the 250 takes against the disk's own sync"""
    runs = []
    for _ in range(lab.rounds):
        disk = lab.disk_sync()
        run = lab.flow(Waypost, 1, 1000 if lab.quick else 3000, 1000, 4096)
        runs.append({**run, 'disk_p50_us': disk['p50'], 'ratio': ratio(run['p50_us'], disk['p50'])})
        report.row('waypost', runs[-1])
        report.note("the disk's own sync: p50 %.0f us, p99 %.0f us" % (disk['p50'], disk['p99']))
    report.figure("p50 of the 250 / the disk's own sync", median(runs, 'ratio'), ('<=', 2))
    report.safe(runs)


def threads(lab, report):
    """CPU a message with 2 threads against 1, on one backend, 4 KiB mail"""
    one, two = [], []
    for _ in range(lab.rounds):
        for n, runs in (1, one), (2, two):
            runs.append(lab.flow(lambda lab, port: Waypost(lab, port, 'threads %d\n' % n), 50, 20000 if lab.quick else 40000, 20, 4096))
            report.row('%d thread%s' % (n, 's' * (n > 1)), runs[-1])
    report.figure('CPU a message, 2 threads / 1', paired(two, one, 'cpu_us'), ('<=', 1.3))
    report.safe(one + two)


def balance(lab, report):
    """CPU a message with three servers to choose from against one, 4 KiB mail"""
    one, three = [], []
    for _ in range(2 * lab.rounds - 1):                # the difference is smaller than the noise of three
        for n, runs in (1, one), (3, three):
            more = lambda port: ''.join('; server 127.0.0.1:%d' % (port + i) for i in range(1, n))  # noqa: E731
            runs.append(lab.flow(lambda lab, port: Waypost(lab, port, backend=more(port)), 50, 20000 if lab.quick else 60000, 20, 4096, servers=n))
            report.row('%d server%s' % (n, 's' * (n > 1)), runs[-1])
    report.figure('CPU a message, three servers / one', paired(three, one, 'cpu_us'), ('<=', 1.05))
    report.safe(one + three)
