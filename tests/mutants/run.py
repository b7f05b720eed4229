#!/usr/bin/python3
"""Break the product in known ways; each time a named test must notice.

Each tests/mutants/*.patch begins with lines
    # what: the promise that is broken, in words
    # run: PROGRAM ARGS       in the build directory; must succeed without the patch and fail with it
    # crash: SCRIPT ARGS      (if any) of tests/crash/, which must notice it in the shipped binary: for run.py --crash, which takes minutes
and goes on as a unified diff against the repository's root. usage: run.py [--build DIR] [--crash] [NAME ...]"""
import os, shlex, shutil, subprocess, sys, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.join(ROOT, 'tests', 'mutants')
args = sys.argv[1:]
build = os.environ.get('WAYPOST_BUILD', os.path.join(ROOT, 'build'))
if args[:1] == ['--build']:
    build, args = args[1], args[2:]
crash = args[:1] == ['--crash']
args = args[crash:]
WORK = os.path.join(os.path.abspath(build), 'mutants')
TREE, OUT, LEFT = os.path.join(WORK, 'tree'), os.path.join(WORK, 'build'), os.path.join(WORK, 'left')
env = dict(os.environ, TMPDIR=LEFT, WAYPOST_SHARED=os.environ.get('WAYPOST_SHARED', os.path.join(os.path.dirname(ROOT), 'shared')))


def head(path):
    found = {}
    for line in open(path):
        if not line.startswith('# '):
            break
        key, _, value = line[2:].partition(':')
        found[key.strip()] = value.strip()
    return found


def quiet(command, **more):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace', env=env, **more)


def make(targets):
    return quiet(['ninja', '-C', OUT, '-j2', *targets])


def run(command):
    try:
        r = quiet(shlex.split(command), cwd=OUT, timeout=240)
        return r.returncode, r.stdout
    except subprocess.TimeoutExpired:
        return 124, 'it hung for 240 seconds'


def main():
    names = sorted(f for f in os.listdir(HERE) if f.endswith('.patch') and (not args or any(a in f for a in args)))
    passed = failed = 0
    for folder in TREE, LEFT:       # a mutant that dies leaves its files behind
        shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(LEFT)
    shutil.copytree(ROOT, TREE, ignore=lambda d, n: [x for x in n if x.startswith('build') or x == '.git'] if d == ROOT else [], symlinks=True)
    # Times of the copy are those of the originals, so that an earlier build directory is still good.
    if not os.path.exists(os.path.join(OUT, 'build.ninja')):
        r = quiet(['meson', 'setup', OUT, TREE, '-Dbuildtype=debugoptimized'])
        if r.returncode:
            print(r.stdout)
            sys.exit('mutants: meson failed')
    heads = {n: head(os.path.join(HERE, n)) for n in names}
    if crash:
        heads = {n: dict(h, run='env WAYPOST_BUILD=. python3 -B %s/tests/crash/%s' % (TREE, h['crash'])) for n, h in heads.items() if 'crash' in h}
        names = [n for n in names if n in heads]
        targets = ['waypost', 'crash_replay', 'libcrash_record.so', 'libcrash_fault.so']
    else:
        targets = sorted({shlex.split(h['run'])[0].removeprefix('./') for h in heads.values()})
    r = make(targets)
    if r.returncode:
        print(r.stdout[-3000:])
        sys.exit('mutants: the unbroken tree does not build')
    sound = {}
    for n in names:
        command = heads[n]['run'] if crash else './' + heads[n]['run'].removeprefix('./')
        if command not in sound:
            make(targets)
            sound[command] = run(command)
        if sound[command][0]:
            print('FAIL %s: %s fails without the patch:\n%s' % (n, command, sound[command][1][-2000:]))
            failed += 1
            continue
        start = time.monotonic()
        patch = ['patch', '-p1', '-s', '-d', TREE, '-i', os.path.join(HERE, n)]
        p = quiet(patch)
        if p.returncode:
            print('FAIL %s: the patch does not apply: %s' % (n, p.stdout.strip()))
            quiet(patch + ['-R', '-f'])
            failed += 1
            continue
        r = make(targets)
        code, out = (1, '') if r.returncode else run(command)
        if r.returncode:
            print('FAIL %s: the broken tree does not build:\n%s' % (n, r.stdout[-1500:]))
            failed += 1
        elif code == 0:
            print('FAIL %s: nobody noticed (%s): %s' % (n, heads[n]['what'], command))
            failed += 1
        else:
            print('ok   %-36s noticed by %s (%.0f s)' % (n, heads[n]['run'], time.monotonic() - start))
            passed += 1
        quiet(patch + ['-R'])
    print('%d passed, %d failed' % (passed, failed))
    return 1 if failed or not passed else 0


sys.exit(main())
