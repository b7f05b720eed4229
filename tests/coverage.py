"""How much of each parser of strangers' bytes the corpora reach: at least 85 % of its lines, or it fails.

    coverage.py BUILD [-v]      BUILD is made by clang with -fprofile-instr-generate -fcoverage-mapping (./dev does it)

PARSERS says which lines belong to a fuzz target: whole files, single
functions of files that do more than parse (file: name ...), or all but some (file: ! name ...)."""
import os
import re
import subprocess
import sys

LEAST = 85
PARSERS = {
    "addr": ["src/net/addr.c"],
    "address": ["src/mail/address.c"],
    "client": ["src/smtp/reply.c", "src/smtp/client.c: line_hear reply_hear reply_next hear_ahead limits_parse offer_parse client_hello greeting_hear "
               "answer_next settle settle_accepted go_hear client_answers client_body client_settle"],
    "command": ["src/smtp/command.c"],
    "conf": ["src/conf/parse.c: ! file_read read_file include_file glob_failed include", "src/conf/value.c: ! conf_print_time conf_print_bytes", "src/conf/bind.c"],
    "control": ["src/main/control.c: shallow control_parse"],
    "data": ["src/smtp/data.c"],
    "dns": ["src/dns/rdata.c"],
    "drop": ["src/receive/drop.c: line_next data_line drop_parse"],
    "header": ["src/mail/header.c", "src/mail/scan.c"],
    "import": ["src/cli/import_postfix.c: ! pf_text pf_read", "src/cli/import_tables.c: ! read_passwd read_text_table"],
    "lookup": ["src/table/template.c"],
    "mime": ["src/mail/mime.c", "src/mail/encode.c"],
    "postfix_queue": ["src/cli/postfix_queue.c"],
    "proxy": ["src/net/proxy.c: ! proxy_hear"],
    "reply": ["src/smtp/reply.c"],
    "spool": ["src/spool/frame.c: frame_check head_read batch_read", "src/spool/walk.c",
              "src/spool/record.c: cut cut_text cut_state plausible stored_was stored_piece read_envelope stored_read note_home note_merge",
              "src/spool/recover.c: segment_scan scan_frame scan_bad judge is_whole octets_good drop_halves segment_learn"],
    "str": ["src/base/utf8.h", "src/base/str.c: str_cut str_word str_u64 str_printable"],
    "submit": ["src/mail/submit.c"],
    "table": ["src/table/file.c: read_entry put_pattern read_lines roster_of_text who_of matches match_in find_pattern roster_find"],
}
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def function_lines(path, names):
    """The lines of these functions: from the one that begins with the name and its arguments to the } in the first column."""
    lines, want, found = set(), set(names), set()
    inside = False
    with open(os.path.join(ROOT, path)) as f:
        for n, line in enumerate(f, 1):
            head = re.match(r"[a-zA-Z].*?\b(\w+)\(", line)
            if head and head.group(1) in want and not line.rstrip().endswith(";"):
                inside = True
                found.add(head.group(1))
            if inside:
                lines.add(n)
                inside = not line.startswith("}")
    if want - found:
        sys.exit(f"{path} has no {' '.join(sorted(want - found))}")
    return lines


def counts(program, profile):
    """path -> {line: did it run}, for lines with code."""
    out = subprocess.run(["llvm-cov", "show", program, f"-instr-profile={profile}"], capture_output=True, text=True, check=True).stdout
    files, ran = {}, None
    for line in out.splitlines():
        if line.endswith(":") and line.startswith("/"):
            ran = files.setdefault(os.path.relpath(os.path.realpath(line[:-1]), os.path.realpath(ROOT)), {})
            continue
        m = re.match(r"\s*(\d+)\|\s*([\d.]+[kMG]?)\|", line)
        if m and ran is not None:
            ran[int(m.group(1))] = ran.get(int(m.group(1)), False) or m.group(2) != "0"
    return files


def main():
    build, talk = sys.argv[1], "-v" in sys.argv
    passed = failed = 0
    for target, parts in sorted(PARSERS.items()):
        program, profile = f"{build}/{target}_fuzz_replay", f"{build}/{target}.prof"
        folder = os.path.join(ROOT, "tests", "corpus", target)
        inputs = sorted(os.path.join(folder, f) for f in os.listdir(folder))
        subprocess.run([program, *inputs], env=dict(os.environ, LLVM_PROFILE_FILE=profile + ".raw"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        subprocess.run(["llvm-profdata", "merge", "-o", profile, profile + ".raw"], check=True)
        lines = reached = 0
        missed = []
        files = counts(program, profile)
        for part in parts:
            path, _, names = part.partition(":")
            ran = files.get(path, {})
            if names:
                some = function_lines(path, names.replace("!", " ").split())
                ran = {n: r for n, r in ran.items() if (n in some) != ("!" in names)}
            lines += len(ran)
            reached += sum(ran.values())
            missed += [f"{path}:{n}" for n, r in sorted(ran.items()) if not r]
        share = 100 * reached / max(lines, 1)
        ok = lines > 0 and share >= LEAST
        passed += ok
        failed += not ok
        print(f"{'ok  ' if ok else 'FAIL'} {target:10} {share:5.1f} % of {lines} lines")
        if talk or not ok:
            print("     not reached: " + " ".join(missed[:40]))
    fuzzed = {f[:-7] for _, _, fs in os.walk(os.path.join(ROOT, "src")) for f in fs if f.endswith("_fuzz.c")}
    for target in sorted(fuzzed - set(PARSERS)):
        print(f"FAIL {target}: no lines are named for it in tests/coverage.py")
        failed += 1
    print(f"{passed} passed, {failed} failed")
    return failed > 0


sys.exit(main())
