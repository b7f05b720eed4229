#!/bin/sh
# Who may include whom: a file of src/X includes files of X and the public headers Y/Y.h of the folders above X in
# doc/layers.txt. And no file is longer than anyone reads.
set -eu
cd -- "$(dirname -- "$0")/.."

find src tests -type f \( -name '*.[chS]' -o -name '*.sh' \) | LC_ALL=C sort | awk '
    function wrong(what) { print "FAIL " file ":" line ": " what; bad++; ok = 0 }
    function check(include, from) {
        n = split(include, part, "/")
        from = part[1]
        if (part[1] == "kit" || part[1] == "sim") { # what tests/ has for them
            if (file !~ /_(test|fuzz)\.[ch]$/) wrong("the test kit and the simulator are for tests")
        } else if (from == folder || n == 1) {
            return
        } else if (!(from in place)) {
            wrong(include " is of no folder in doc/layers.txt")
        } else if (place[from] > place[folder]) {
            wrong(include ": " from "/ is below " folder "/ in doc/layers.txt")
        } else if (include != from "/" from ".h" && !(include in open)) {
            wrong(include " is internal to " from "/")
        }
    }
    BEGIN {
        # Beside base.h, for the few that read octets in bulk.
        open["base/marks.h"] = 1
        while ((getline name < "doc/layers.txt") > 0)
            place[name] = ++count
    }
    {
        file = $0
        line = 0
        ok = 1
        folder = ""
        if (split(file, path, "/") > 2 && path[1] == "src") {
            folder = path[2]
            if (!(folder in place)) wrong(folder "/ is not in doc/layers.txt")
        }
        while ((getline text < file) > 0) {
            line++
            if (folder in place && match(text, /^[ \t]*#[ \t]*include[ \t]*"[^"]*"/)) {
                include = substr(text, RSTART, RLENGTH)
                gsub(/^[^"]*"|"$/, "", include)
                check(include)
            }
        }
        close(file)
        if (line > 1000) wrong("more than 1000 lines: it is asking to be two")
        good += ok
    }
    END {
        printf "%d files, %d of them not as they should be\n", NR, NR - good
        printf "%d passed, %d failed\n", !bad, !!bad
        exit bad > 0
    }'
