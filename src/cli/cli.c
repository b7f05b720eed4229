/* Verbs and help. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

const struct cli_verb cli_verbs[] = {
    { "serve", "run the relay", "waypost serve [-c FILE]\nwaypost serve --dev", .run = cli_serve,
      .more = "  -c, --config FILE  the configuration; " CLI_CONFIG " unless given\n"
              "  --dev              a relay to try things with, on built-in settings: nothing to configure\n"
              "  --as-is            one process: no parent that restarts it, no change of user, no sandbox\n\n"
              "SIGTERM and SIGINT end it after what is under way, SIGHUP reads the configuration anew, SIGUSR1 opens the log file\n"
              "anew." },
    { "check", "read a configuration and tell what is wrong with it", "waypost check [-c FILE] [--connect] [--dns] [--timeout TIME] [--json]", .run = cli_check,
      .more = "  --connect          connect to every server of every backend, and ask every source of recipients one question\n"
              "  --dns              look up the names that the configuration has, and where mail for the relay domains is sent\n"
              "  --timeout TIME     for each of these; 10s unless given. They are made side by side\n\n"
              "Exits with 0 when the relay would run on it (there may be warnings), else with 2; with 1 when only a server, a source or a\n"
              "name failed. Asked by root it also tells which files the relay's user may not read.\nAliases that lead round and round, or that nobody will ask for, are warnings." },
    { "reload", "put the configuration in force that its file now holds", "waypost reload [--json]", .run = cli_reload,
      .more = RELAY_AT_HELP "\nWith errors in it the old one stays in force, they are printed, and the exit code is 2." },
    { "drain", "take no more mail, finish what is under way, end", "waypost drain [--json]", .run = cli_drain, .more = RELAY_AT_HELP },
    { "backend", "servers of backends: how they are; take mail from one, or give it back",
      "waypost backend list [--json]\nwaypost backend drain|undrain BACKEND SERVER [--json]", .run = cli_backend,
      .more = RELAY_AT_HELP "\nA server is named as `backend list` prints it: HOST:PORT. A drained one gets no further message; what is under way to it\n"
              "is finished. It stays so until `undrain`, over restarts too." },
    { "explain", "why a recipient is taken or refused, and where its mail would go",
      "waypost explain rcpt ADDRESS [--from SENDER] [--client IP] [--user LOGIN] [--listener ADDRESS] [--json]", .run = cli_explain,
      .more = "  --from SENDER      the null sender unless given\n"
              "  --client IP        whose session it would be; a stranger's unless given. A user of this host is uid:NUMBER\n"
              "  --user LOGIN       and who had logged in, for rules that ask for a login\n"
              "  --listener ADDRESS where it would have come in, for rules that ask for a listener\n"
              RELAY_AT_HELP
              "\nThe running relay is asked, which looks things up as it would for a session, and sends nothing. Exits with 1 when the recipient is refused." },
    { "queue", "what waits, and why; try it now, hold it, return it, send it another way",
      "waypost queue list [WHICH] [--limit N] [--json]\n"
      "waypost queue show ID [--json]\n"
      "waypost queue retry|release ID ... | WHICH | --all\n"
      "waypost queue hold ID ... | WHICH | --all [--for TIME] [--reason TEXT]\n"
      "waypost queue bounce|delete ID ... | WHICH | --all [--report] [--reason TEXT]\n"
      "waypost queue reroute ID ... | WHICH | --all --via BACKEND\n"
      "waypost queue suspend --lane LANE [--for TIME] [--reason TEXT]\n"
      "waypost queue resume --lane LANE",
      .run = cli_queue,
      .more = "WHICH, of which all that is given must fit:\n"
              "  --lane LANE          as `queue list` or `stats` names it\n"
              "  --domain DOMAIN      of the recipients; *.example.com is everything below\n"
              "  --sender WHO         an address, a domain or *.domain; \"<>\" is the null sender\n"
              "  --recipient WHO      the same\n"
              "  --tenant NAME\n"
              "  --stream NAME\n"
              "  --why TEXT           the reason holds this text\n"
              "  --older TIME         accepted at least so long ago\n"
              "  --held               held by an operator\n"
              "  --match KEY=VALUE    the same: lane, domain, sender, recipient, tenant, stream, reason, age, id\n\n"
              "  --dry-run            only count; suspend, resume: what waits in the lane\n"
              "  --for TIME           hold or suspend for so long; as hold_max says, 30 days, unless given\n"
              "  --report             delete: the sender gets a report\n"
              "  --json               what was done as JSON\n"
              RELAY_AT_HELP
              "\nbounce gives mail up as failed, with a report to its sender; delete without. Held and suspended time is not counted against the\n"
              "lifetime of mail. Holds and suspended lanes outlive a restart of the relay; a way chosen by reroute does not." },
    { "incidents", "trouble that concerns more than one message, and what ends it", "waypost incidents [--json]\nwaypost incidents close ID", .run = cli_incidents,
      .more = RELAY_AT_HELP "\nMail that an incident keeps burns no attempt and its lifetime does not end, up to hold_max. Each ends by itself when what it waits for comes;\n"
              "close tries it at once, and when the trouble is still there it begins anew. Exits with 0 also when there is none." },
    { "trace", "the story of a message", "waypost trace ID|MESSAGE-ID|ADDRESS|@DOMAIN [--json]", .run = cli_trace,
      .more = RELAY_AT_HELP "\nOf senders and recipients. In the recent past, which is in memory, a part of an address or Message-ID is enough; what a\n"
              "\"trace { retention 30d }\" keeps on disk is found by the whole of it. The newest 200 messages are told of." },
    { "stats", "counters, times, lanes and servers", "waypost stats [--json] [--watch]", .run = cli_stats,
      .more = RELAY_AT_HELP "  --watch            again and again, with rates, until interrupted\n"
              "  --json             all there is; of each thread too: posts from other threads, sleeps, switches between tasks, and tasks,\n"
              "                     now and at most" },
    { "top", "a live view: lanes, rates, what waits and why", "waypost top [--once] [--sort KEY]", .run = cli_top,
      .more = RELAY_AT_HELP "  --once             print one picture and end, for scripts\n"
              "  --sort KEY         queued, rate, oldest or name; queued unless given\n\n"
              "Keys: s, r, o and n sort by what is queued, by rate, by age and by name, q ends. A new picture each second." },
    { "config", "show the configuration, what a reload would change, or the manual of all settings",
      "waypost config show [--effective] [-c FILE] [--json]\nwaypost config diff [--json]\nwaypost config diff FILE1 FILE2 [--json]\nwaypost config manual",
      .run = cli_config,
      .more = "show prints what the file says, and those it includes, as one that can be loaded again: each setting with the place it comes\n"
              "from. Secrets in plain text are shown as fingerprints.\n"
              "  --effective        settings that were not given, too\n"
              "diff compares the running relay's configuration with the file, or two files: a line for each setting that differs, - as it\n"
              "is, + as it would be. Exits with 0 when nothing differs, 1 when something does, 3 when the relay is not reachable.\n"
              RELAY_AT_HELP
              "manual prints waypost.conf(5) as mdoc: waypost config manual | man -l -" },
    { "dns", "look a name up as the relay would", "waypost dns NAME [addresses|mx|txt|tlsa|srv] [-c FILE] [--server ADDR] [--json]\n"
      "waypost dns ADDRESS ptr [OPTIONS]", .run = cli_dns,
      .more = "  -c, --config FILE  whose block dns says how; " CLI_CONFIG " if it is there, else as without one\n"
              "  --server ADDR      ask this resolver; may be given again\n"
              "  --timeout TIME     30s unless given\n"
              "  --json             the answer as JSON\n\n"
              "Says whether the answer is secure: validated by DNSSEC. Exits with 1 when there is no such name or no answer." },
    { "sink", "a mail server for tests: takes all mail, counts it and throws it away", "waypost sink [-l ADDR:PORT] [OPTIONS]",
      .run = cli_sink,
      .more = "  -l, --listen ADDR:PORT       127.0.0.1:2525 unless given; may be given again; ADDR:FIRST-LAST is a server a port\n"
              "  --threads N                  1 unless given\n"
              "  --lmtp                       speak LMTP, not SMTP: each recipient is answered behind the final dot\n"
              "  --json                       figures as JSON; they are printed at the end, and on SIGUSR1\n"
              "  --count-file FILE            and written there\n"
              "  --unique                     count ids (X-Blast-Id) that came twice\n"
              "  --capture DIR                keep each message in a file, below its envelope (X-Sink-From, X-Sink-To)\n"
              "  --hash FILE                  append a JSON line for each: id, from, to, size, CRC-32C of what is behind the header\n\n"
              "What it does wrong. A STAGE is greeting, ehlo, mail, rcpt, data or dot.\n"
              "  --delay STAGE:TIME           wait before it answers, such as dot:200ms\n"
              "  --reject STAGE:CODE[:TEXT][:PERCENT%]    such as rcpt:452:too many:30%\n"
              "  --fail-rcpt PATTERN:CODE[:TEXT][:PERCENT%]   such as '*@slow.example:451'\n"
              "  --fail-dot PATTERN:CODE[:TEXT][:PERCENT%]    the same behind the final dot, with --lmtp\n"
              "  --close STAGE[:N]            end the connection there instead of answering, after N times\n"
              "  --max-size SIZE              refuse what is larger\n"
              "  --max-mails-per-session N    then 421\n"
              "  --rate-limit SIZE            octets a second that a session reads of a message\n"
              "  --seed N                     of the dice that PERCENT throws\n"
              "  --no-ehlo --no-pipelining --no-8bitmime --no-chunking --no-dsn --no-smtputf8 --no-enhanced\n"
              "                               what it does not offer" },
    { "blast", "send many messages as fast as a server takes them, and measure", "waypost blast ADDR:PORT [OPTIONS]",
      .run = cli_blast,
      .more = "  --sessions N                 at a time; 50 unless given\n"
              "  --mails N                    in all; 1000 unless given, or\n"
              "  --time TIME                  for so long, such as 10s\n"
              "  --per-session N              messages on a connection; 20 unless given\n"
              "  --size SIZE                  of a message, header and all; 4k unless given\n"
              "  --rcpt N                     recipients of a message; 1 unless given\n"
              "  --to PATTERN                 user%d@example.com unless given: %d is a number that grows\n"
              "  --from ADDRESS               blast@blast.example unless given; empty: the null sender\n"
              "  --ehlo NAME                  blast.example unless given\n"
              "  --rate N/s                   no more messages a second than that\n"
              "  --open                       sessions begin as --rate and --per-session say, however many are still under way:\n"
              "                               clients that know nothing of each other; --sessions is the most at a time\n"
              "  --rate-limit SIZE            octets a second that a session says of a message: slow clients\n"
              "  --bind ADDR[/BITS]           connect from there, or from the addresses of that network in turn\n"
              "  --pipelining on|off          on where the server offers it\n"
              "  --bdat                       BODY=BINARYMIME and BDAT, where the server offers them\n"
              "  --verify-log FILE            append id and time of each message that got its 250, before going on\n"
              "  --keep-going                 connect again when a connection fails, until all is sent or the time is over\n"
              "  --threads N                  1 unless given\n"
              "  --json                       figures as JSON\n\n"
              "Each message has an id of its own in X-Blast-Id; `waypost sink --unique` counts them. Exits with 1 when a message was\n"
              "not taken, with 3 when no connection came about." },
    { "spool", "check, move or measure a spool that no relay is using",
      "waypost spool verify DIR\nwaypost spool export DIR > FILE\nwaypost spool import DIR < FILE\n"
      "waypost spool import DIR [--from postfix] QUEUE_DIRECTORY [--json]\n"
      "waypost spool bench DIR [--size SIZE] [--tasks N] [--time TIME] [--keep N] [--json]", .run = cli_spool,
      .more = "verify reads every record and changes nothing; exits with 1 when something that was acknowledged is damaged.\n"
              "export writes all messages that wait, with what is known of their recipients; import takes them into another spool.\n"
              "import takes the queue of a stopped Postfix too, such as /var/spool/postfix, and leaves that as it is: what waits there\n"
              "with the recipients that are still to be served, and held what is held. Each file's fate is told in a line; those that\n"
              "are torn or damaged are refused one by one, and the exit code is 1. To import again takes nothing twice that still waits.\n"
              "bench accepts and ends messages as fast as the disk takes them: in an empty directory, not in one with mail.\n\n"
              "  --size SIZE        of a message; 4k unless given\n"
              "  --tasks N          at a time; 50 unless given\n"
              "  --time TIME        for so long; 5s unless given\n"
              "  --keep N           leave the first N messages waiting\n"
              "  --json             figures as JSON" },
    { "import", "make a configuration of one that Postfix runs on", "waypost import postfix DIR [-o FILE | --out DIR] [--root DIR] [--force] [--json]", .run = cli_import,
      .more = "  -o, --output FILE  write it there, and the lists that it needs beside it\n"
              "  --out DIR          write waypost.conf and the lists there\n"
              "  --root DIR         absolute paths in main.cf are looked for below DIR: those of another machine, or of a chroot\n"
              "  --force            write over what is there\n"
              "  --json             the report as JSON, a line for each finding\n\n"
              "Reads main.cf, master.cf and the text of the tables they name, and tells of each line what became of it: translated, partly,\n"
              "not translated, needless, refused (an open relay), or decide: nobody but you can. Without -o or --out the configuration goes to\n"
              "the standard output and the report to the standard error. Exits with 1 when `check` would not take what was written.\n"
              "The mail that waits in its queue is for `waypost spool import`" },
    { "sendmail", "hand a message to the relay, as programs do; also by that name", "waypost sendmail [-t] [-i] [-f ADDRESS] [OPTIONS] [RECIPIENT ...]",
      .run = cli_sendmail, .more = "waypost-sendmail(1) tells all. Exit codes are those of sysexits.h." },
    { "completion", "what a shell offers behind TAB, as a script for it", "waypost completion bash|zsh|fish", .run = cli_completion,
      .more = "As in: waypost completion bash > /etc/bash_completion.d/waypost" },
    { "mailq", "what waits, as `queue list` tells it; also by that name", "waypost mailq", .run = cli_mailq },
    { "newaliases", "have lists read again, as `reload` does; also by that name", "waypost newaliases", .run = cli_newaliases },
    { .name = NULL },
};

static const struct cli_verb *verb_find(str name)
{
    for (const struct cli_verb *v = cli_verbs; v->name; v++)
        if (str_eq(str_z(v->name), name))
            return v;
    return NULL;
}

/* ---- help ---- */

static int help_all(void)
{
    printf("waypost VERB ...: a mail relay (waypost " WAYPOST_VERSION ")\n\n");
    for (const struct cli_verb *v = cli_verbs; v->name; v++)
        printf("  %-8s %s\n", v->name, v->help);
    printf("\n`waypost VERB --help` tells more of one of them. Exit codes: 0 done, 1 no or failed, 2 usage or configuration,\n"
           "3 the relay is not reachable.\n");
    return CLI_DONE;
}

static int help_verb(const struct cli_verb *v)
{
    str forms = str_z(v->form), form;

    printf("%s: %s\n\n", v->name, v->help);
    while (str_cut(&forms, S("\n"), &form))
        printf("  %.*s\n", STR(form));
    if (v->more)
        printf("\n%s\n", v->more);
    return CLI_DONE;
}

static int unknown_verb(const char *name)
{
    const char *best = NULL;
    size_t distance = 3;

    for (const struct cli_verb *v = cli_verbs; v->name; v++) {
        size_t d = str_starts(str_z(v->name), str_z(name)) ? 0 : str_distance(str_z(v->name), str_z(name));
        if (d < distance) {
            distance = d;
            best = v->name;
        }
    }
    if (best)
        cli_say("there is no verb \"%s\"; did you mean \"%s\"?", name, best);
    else
        cli_say("there is no verb \"%s\"; `waypost help` lists them", name);
    return CLI_USAGE;
}

/* ---- main ---- */

static bool asks_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || (strcmp(argv[i], "-h") == 0 && strcmp(argv[0], "sendmail") != 0)) /* whose -h N are hops */
            return true;
    return false;
}

/* Links to this program have the names that others know a mail system by. */
static const struct cli_verb *verb_of_link(const char *path)
{
    const char *slash = strrchr(path, '/');
    str name = str_z(slash ? slash + 1 : path);

    return str_eq(name, S("sendmail")) || str_eq(name, S("mailq")) || str_eq(name, S("newaliases")) ? verb_find(name) : NULL;
}

static int dispatch(int argc, char **argv)
{
    const struct cli_verb *link = argc > 0 ? verb_of_link(argv[0]) : NULL;

    if (link)
        return link->run(argc, argv);
    str name = argc > 1 ? str_z(argv[1]) : S("help");

    if (str_eq(name, S("--version")) || str_eq(name, S("version"))) {
        printf("waypost " WAYPOST_VERSION "\n");
        return CLI_DONE;
    }
    if (str_eq(name, S("help")) || str_eq(name, S("--help")) || str_eq(name, S("-h"))) {
        if (argc < 3)
            return help_all();
        const struct cli_verb *v = verb_find(str_z(argv[2]));
        return v ? help_verb(v) : unknown_verb(argv[2]);
    }
    const struct cli_verb *v = verb_find(name);
    if (!v)
        return unknown_verb(argv[1]);
    if (asks_help(argc - 1, argv + 1))
        return help_verb(v);
    return v->run(argc - 1, argv + 1);
}

int cli_main(int argc, char **argv)
{
    int code = dispatch(argc, argv);

    /* What we were asked for and could not write was not done. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && errno != EPIPE && code == CLI_DONE) {
        cli_say("writing the answer: %s", strerror(errno));
        code = CLI_NO;
    }
    return code;
}
