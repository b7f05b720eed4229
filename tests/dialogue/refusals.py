"""Every refusal that the sources can give is given in some transcript: refusals.py HEARD, where HEARD has all lines that were heard
(dialogue --heard). Each reply of 4xx and 5xx in src/receive and in the receiving half of src/smtp is found by how it is written there."""
import glob
import os
import re
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
FILES = sorted(f for f in glob.glob(f"{ROOT}/src/receive/*.c") if not re.search(r"_(test|fuzz)\.c$", f)) + [
    f"{ROOT}/src/smtp/{name}.c" for name in ("command", "server", "data")]

# What no client can be told, and why.
UNHEARD = {
    "500 5.5.1 this is a mail server": "an HTTP client is told 421 instead",
}

STRING = r'"(?:[^"\\]|\\.)*"'
ENH = re.compile(r"ENH\(\s*([45])\s*,\s*(\d+)\s*,\s*(\d+)\s*\)")


def call(text, at):
    """The arguments of a call whose ( is at `at`, and its end."""
    depth, arg, args, i = 0, "", [], at
    while True:
        if text[i] == '"':
            whole = re.match(STRING, text[i:]).group()
            arg += whole
            i += len(whole)
            continue
        c = text[i]
        depth += c == "("
        depth -= c == ")"
        if depth == 0:
            return args + [arg], i + 1
        if c == "," and depth == 1:
            args.append(arg)
            arg = ""
        elif i > at:
            arg += c
        i += 1


def literal(arg):
    """Its C string literals: those next to each other are one."""
    return ["".join(s[1:-1] for s in re.findall(STRING, run)) for run in re.findall(rf"{STRING}(?:\s*{STRING})*", arg)]


def statuses(arg):
    return [".".join(m) for m in ENH.findall(arg)] or ([""] if re.search(r"struct enhanced|closed|\.status", arg) else [])


def refusals(path):
    """(code, status, text, line), and where in the file an ENH(4..) or ENH(5..) was accounted for."""
    with open(path) as f:
        text = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group()), f.read(), flags=re.S)
    found, spans = [], []
    line = lambda at: text.count("\n", 0, at) + 1
    for m in re.finditer(r"\b(say|server_reply|refuse|refuse_argument|refused)\(", text):
        if re.search(r"(static|^)\s*(void|err|struct reply)\s*$", text[text.rfind("\n", 0, m.start()) + 1:m.start()]):
            continue # its definition
        args, end = call(text, m.end() - 1)
        code = next((a.strip() for a in args if re.fullmatch(r"\s*[45]\d\d\s*", a)), None)
        if m[1] == "refuse_argument":
            found += [("501", "5.5.4", t, line(m.start())) for t in literal(args[-1])]
        elif m[1] == "refused":
            found += [("500", "5.5.2", t, line(m.start())) for t in literal(args[2])]
        elif code:
            at = next(i for i, a in enumerate(args) if a.strip() == code)
            texts = literal(", ".join(args[at + 2:])) if m[1] == "refuse" and "command.c" in path else literal(args[at + 2])
            found += [(code, s, t, line(m.start())) for s in statuses(args[at + 1]) or [""] for t in texts or [None]]
        spans.append((m.start(), end))
    for m in re.finditer(rf"\.code = ([45]\d\d), \.enhanced = ENH\((\d), (\d), (\d)\), \.text = (?:S\(({STRING})\)|(str_z\(why\)))", text):
        if m[5]:
            found.append((m[1], f"{m[2]}.{m[3]}.{m[4]}", m[5][1:-1], line(m.start())))
        spans.append((m.start(), m.end()))
    lost = [line(m.start()) for m in ENH.finditer(text) if not any(a <= m.start() < b for a, b in spans)
            and not re.search(r"is_unknown|static void refuse_argument", text[text.rfind("\n", 0, m.start()):text.find("\n", m.start())])]
    return found, lost


def pattern(code, status, text):
    any_text = ".*" if text is None else re.sub(r"%(?:%|\.\*s|[a-z0-9]*[sdux])", lambda m: "%" if m[0] == "%%" else "\0", text)
    if text is not None:
        any_text = ".*".join(re.escape(part.replace('\\"', '"')) for part in any_text.split("\0"))
    return re.compile(f"{code}[ -]" + ("(?:" + re.escape(status) + " )?" if status else r"(?:\d\.\d+\.\d+ )?") + any_text)


with open(sys.argv[1]) as f:
    heard = set(f.read().splitlines())
passed = failed = 0
for path in FILES:
    found, lost = refusals(path)
    name = os.path.relpath(path, ROOT)
    for number in lost:
        failed += 1
        print(f"FAIL {name}:{number}: a refusal written so that this check does not understand it")
    for code, status, text, number in found:
        want = pattern(code, status, text)
        if f"{code} {status} {text}" in UNHEARD or any(want.match(line) for line in heard):
            passed += 1
        else:
            failed += 1
            print(f"FAIL {name}:{number}: no transcript hears {code} {status} {text}")
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0 or passed < 50)
