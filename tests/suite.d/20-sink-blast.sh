#!/bin/sh
# The two ends of our own mail tests against each other, and each against somebody else's other end.
set -eu
cd -- "$(dirname -- "$0")/../.."
exec python3 - "${WAYPOST_BUILD:-build}/waypost" <<'END'
import glob, json, os, re, shutil, signal, smtplib, socket, subprocess, sys, tempfile, time

WAYPOST = sys.argv[1]
passed = failed = 0


def check(ok, what, *details):
    global passed, failed
    passed += bool(ok)
    failed += not ok
    if not ok:
        print('FAIL', what, *details)


class Sink:
    running = []

    def __init__(self, *options, listen='127.0.0.1:0'):
        self.p = subprocess.Popen([WAYPOST, 'sink', '-l', listen, '--json', *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        Sink.running.append(self.p)
        said = re.search(r'listening on (\S+)', self.p.stderr.readline())
        self.at = said.group(1) if said else ''
        self.port = int(self.at.rsplit(':', 1)[1]) if said and not listen.startswith('unix') else 0    # 0: a port was taken

    def count(self):
        self.p.send_signal(signal.SIGUSR1)
        return json.loads(self.p.stdout.readline())

    def end(self):
        self.p.terminate()
        out = self.p.communicate(timeout=20)[0].strip().splitlines()
        check(self.p.returncode == 0, 'the sink ends well', self.p.returncode)
        return json.loads(out[-1])


def blast(at, *options, want=0):
    p = subprocess.run([WAYPOST, 'blast', at, '--json', *options], capture_output=True, text=True, timeout=60)
    check(p.returncode == want, 'blast %s exits with %d' % (' '.join(options), want), p.returncode, p.stderr, p.stdout)
    return json.loads(p.stdout) if p.stdout else {}


def both(sink_options, blast_options, want=0):
    sink = Sink(*sink_options)
    sent = blast(sink.at, *blast_options, want=want)
    return sent, sink.end()


dir = tempfile.mkdtemp()
try:
    # All that is sent arrives once, in every way that it can be said.
    for sink_options, blast_options in [
        ([], []),
        (['--threads', '2'], ['--threads', '2', '--sessions', '7']),
        (['--no-pipelining'], []),
        (['--no-ehlo'], []),
        ([], ['--pipelining', 'off', '--rcpt', '3']),
        (['--no-enhanced', '--no-dsn', '--no-8bitmime', '--no-smtputf8'], ['--size', '1']),
        ([], ['--bdat', '--size', '100k', '--sessions', '5']),
        (['--no-chunking'], ['--bdat']),
        ([], ['--size', '300k', '--sessions', '5']),
        (['--delay', 'dot:1ms', '--delay', 'greeting:1ms', '--delay', 'data:1ms'], []),
        (['--rate-limit', '100k'], ['--size', '10k', '--sessions', '200', '--per-session', '1']),
        ([], ['--from', '', '--to', 'one@example.org', '--per-session', '1']),
    ]:
        sent, got = both(['--unique', *sink_options], ['--mails', '200', *blast_options])
        rcpts = 600 if '--rcpt' in blast_options else 200
        check(sent['messages'] == 200 and sent['failed'] == 0 and sent['errors'] == {}, 'all is sent', blast_options, sent)
        check(got['messages'] == got['unique'] == 200 and got['recipients'] == rcpts, 'all arrives', sink_options, got)
        check(got['duplicates'] == got['without_id'] == got['bare_line_ends'] == 0, 'once', got)
        check('--size' in blast_options or got['octets'] == 200 * 4096, 'and whole', got)

    # A Unix socket, a rate, a time, the figures in a file.
    sink = Sink('--count-file', dir + '/count', listen='unix:%s/sock' % dir)
    start = time.monotonic()
    sent = blast('unix:%s/sock' % dir, '--mails', '30', '--rate', '100/s')
    check(0.25 < time.monotonic() - start < 3, 'a rate is kept', time.monotonic() - start)
    sent = blast('unix:%s/sock' % dir, '--time', '300ms')
    check(sent['messages'] > 0 and 0.2 < sent['seconds'] < 2, 'a time is kept', sent)
    n = sink.count()['messages']
    check(json.load(open(dir + '/count')) == sink.end() and n == sent['messages'] + 30, 'the figures stand in the file')

    # Many servers in one, clients from many addresses, slow ones, and ones that come whether they are waited for or not.
    for first in range(21000, 32000, 50):
        sink = Sink('--threads', '2', '--unique', listen='127.0.0.1:%d-%d' % (first, first + 49))
        if sink.port:
            break
    check(sink.at == '127.0.0.1:%d' % first, 'a range of ports', sink.at)
    for port in first, first + 25, first + 49:
        blast('127.0.0.1:%d' % port, '--mails', '10')
    with socket.create_server(('127.0.0.1', 0)) as listener:
        p = subprocess.Popen([WAYPOST, 'blast', '127.0.0.1:%d' % listener.getsockname()[1], '--json', '--mails', '16', '--per-session', '1', '--open',
                              '--rate', '1000/s', '--bind', '127.7.7.0/29'], stdout=subprocess.PIPE, text=True)
        seen = []
        for _ in range(16):
            s, peer = listener.accept()
            seen.append(peer[0])
            s.close()
        check(sorted(seen) == sorted(['127.7.7.%d' % i for i in range(8)] * 2), 'connections from every address in turn', seen)
        check(json.loads(p.communicate(timeout=20)[0])['lost'] == 16 and p.returncode == 3, 'lost ones')
    sent = blast(sink.at, '--mails', '4', '--size', '4k', '--rate-limit', '8k', '--per-session', '1')
    check(sent['messages'] == 4 and 0.4 < sent['seconds'], 'slow clients', sent)
    sent = blast(sink.at, '--mails', '100', '--open', '--rate', '500/s', '--per-session', '5', '--threads', '2')
    check(sent['messages'] == 100 and sent['connections'] == 20 and sent['missed'] == 0, 'sessions at their times', sent)
    check(0.15 < sent['seconds'], 'and not before', sent)
    check(sink.end()['unique'] == 134, 'all of that arrives')
    sink = Sink('--delay', 'dot:2s')
    sent = blast(sink.at, '--mails', '10', '--open', '--rate', '100/s', '--per-session', '1', '--sessions', '3', want=1)
    check(sent['messages'] == sent['connections'] == 3 and sent['missed'] == 7, 'sessions that found no place', sent)
    sink.end()
    sent, got = both(['--reject', 'greeting:421:not now:50%'], ['--mails', '100', '--open', '--rate', '2000/s', '--per-session', '1'], want=1)
    check(sent['turned_away']['4xx'] == got['refused'] > 20 and sent['messages'] == 100 - got['refused'] and not sent['lost'], 'turned away', sent, got)
    sent, got = both(['--close', 'rcpt'], ['--mails', '10', '--open', '--rate', '2000/s', '--per-session', '1'], want=1)
    check(sent['lost'] == 10 and sent['turned_away'] == {'4xx': 0, '5xx': 0}, 'lost', sent)

    # What goes wrong is counted on both ends.
    sent, got = both(['--reject', 'rcpt:452:too many:30%', '--seed', '7'], ['--mails', '500'], want=1)
    check(sent['messages'] + sent['failed'] == 500 and sent['messages'] == got['messages'], 'refused recipients', sent, got)
    check(0.2 < got['refused'] / 500 < 0.4 and sent['errors'] == {'452 4.0.0 too many': got['refused']}, 'three in ten', sent, got)
    again, _ = both(['--reject', 'rcpt:452:too many:30%', '--seed', '7'], ['--mails', '500'], want=1)
    check(abs(again['messages'] - sent['messages']) < 60, 'the dice have a seed', again, sent)
    sent, got = both(['--fail-rcpt', '*7@example.com:550:no such user'], ['--mails', '100', '--sessions', '1'], want=1)
    check(sent['messages'] == 90 and got['messages'] == 90 and sent['replies'] == {'2xx': 90, '5xx': 10}, 'a pattern of recipients', sent, got)
    sent, got = both(['--reject', 'dot:554::50%'], ['--mails', '100'], want=1)
    check(sent['messages'] == got['messages'] < 100 and sent['replies']['5xx'] == got['refused'], 'refused messages', sent, got)
    sent, got = both(['--close', 'dot:1'], ['--mails', '10', '--sessions', '1', '--per-session', '5', '--keep-going'], want=1)
    check(got['unanswered'] == 3 and got['messages'] == sent['messages'] == 4, 'no answer to the dot', sent, got)
    check(any('maybe' in e for e in sent['errors']), 'is told as what it is', sent)
    sent, got = both(['--max-mails-per-session', '3'], ['--mails', '30', '--sessions', '2', '--keep-going'], want=1)
    check(got['messages'] == sent['messages'] and any('421' in e for e in sent['errors']), 'enough for a session', sent, got)
    sent, got = both(['--max-size', '1k'], ['--mails', '5'], want=1)
    check(sent['replies'] == {'5xx': 5} and got['messages'] == 0, 'too large', sent, got)
    for stage in ['greeting', 'ehlo', 'mail', 'rcpt', 'data']:
        sent, got = both(['--reject', stage + ':450:not now'], ['--mails', '2', '--sessions', '1'], want=3 if stage in ('greeting', 'ehlo') else 1)
        check(sent['messages'] == 0 and any('450' in e for e in sent['errors']), 'refused at ' + stage, sent)
        sent, got = both(['--close', stage], ['--mails', '2', '--sessions', '1'], want=3 if stage in ('greeting', 'ehlo') else 1)
        check(sent['messages'] == 0 and got['messages'] == 0, 'left at ' + stage, sent)

    # Who reads the log of acknowledgements finds each message in it, and in the sink's.
    os.mkdir(dir + '/mails')
    sent, got = both(['--hash', dir + '/hash', '--capture', dir + '/mails'], ['--mails', '50', '--verify-log', dir + '/log', '--rcpt', '2'])
    ids = sorted(line.split()[0] for line in open(dir + '/log'))
    hashes = [json.loads(line) for line in open(dir + '/hash')]
    check(len(set(ids)) == 50 and ids == sorted(h['id'] for h in hashes), 'every id is in both logs')
    check(len({h['crc32c'] for h in hashes}) == 1 and all(h['size'] == 4096 and len(h['to']) == 2 for h in hashes), 'with the same text')
    files = [open(f, 'rb').read() for f in glob.glob(dir + '/mails/*.eml')]
    check(len(files) == 50 and all(re.match(rb'X-Sink-From: blast@blast.example\r\nX-Sink-To: user\d+@example.com\r\nX-Sink-To: ', f)
                                   and f.endswith(b'\r\n') for f in files), 'every message is in a file')

    # Other clients.
    sink = Sink('--capture', dir)
    with smtplib.SMTP('127.0.0.1', sink.port) as s:
        s.sendmail('ann@example.org', ['bob@example.org'], b'Subject: dots\r\n\r\n.\r\n..\r\n.a\r\n', ['BODY=8BITMIME'])
        s.sendmail('ann@example.org', ['bob@example.org'], b'Subject: second\r\n\r\nb\r\n')
    text = [open(f, 'rb').read() for f in sorted(glob.glob(dir + '/*.eml'))]
    check(len(text) == 2 and text[0].endswith(b'\r\n\r\n.\r\n..\r\n.a\r\n') and text[1].endswith(b'b\r\n'), "Python's smtplib", text)
    if shutil.which('swaks'):
        p = subprocess.run(['swaks', '--server', '127.0.0.1', '--port', str(sink.port), '--from', 'ann@example.org', '--to', 'bob@example.org',
                            '--pipeline', '--silent', '3'], capture_output=True, text=True)
        check(p.returncode == 0 and sink.count()['messages'] == 3, 'swaks', p.stdout, p.stderr)
    check(sink.end()['messages'] >= 2, 'and they are counted')

    # What cannot be.
    s = socket.create_server(('127.0.0.1', 0))
    closed = s.getsockname()[1]
    s.close()
    blast('127.0.0.1:%d' % closed, want=3)
    for verb, *words in [('blast',), ('blast', 'nowhere'), ('blast', '127.0.0.1:1', '127.0.0.1:2'), ('blast', '127.0.0.1:1', '--sessions', '0'),
                         ('blast', '127.0.0.1:1', '--to', 'x'), ('blast', '127.0.0.1:1', '--size', 'x'), ('blast', '127.0.0.1:1', '--rate', 'x'),
                         ('blast', '127.0.0.1:1', '--time', '3'), ('blast', '127.0.0.1:1', '--pipelining', 'x'), ('blast', '127.0.0.1:1', '--form', 'x'),
                         ('sink', 'x'), ('sink', '--reject', 'dot:250'), ('sink', '--reject', 'x:450'), ('sink', '--delay', 'dot'),
                         ('sink', '--close', 'dot:x'), ('sink', '--fail-rcpt', 'x'), ('sink', '--fail-dot', '*:550'), ('sink', '--lmtp', '--fail-dot', 'x'), ('sink', '--threads', '0'), ('sink', '--max-size', 'x'),
                         ('sink', '-l', 'x'), ('sink', '-l', '127.0.0.1:9-8'), ('sink', '-l', '127.0.0.1:0-8'), ('sink', '-l', '127.0.0.1:1-65536'),
                         ('blast', '127.0.0.1:1', '--open'), ('blast', '127.0.0.1:1', '--rate-limit', '0'), ('blast', '127.0.0.1:1', '--bind', 'x'),
                         ('blast', '127.0.0.1:1', '--bind', '::1'), ('blast', 'unix:/nowhere', '--bind', 'unix')]:
        p = subprocess.run([WAYPOST, verb, *words], capture_output=True, text=True, timeout=20)
        check(p.returncode == 2 and p.stderr.startswith('waypost %s: ' % verb) and not p.stdout, 'usage: ' + ' '.join([verb, *words]), p)
finally:
    shutil.rmtree(dir)
    for p in Sink.running:
        if p.poll() is None:
            p.kill()
print('%d passed, %d failed' % (passed, failed))
sys.exit(failed > 0)
END
