#include "cli/import.h"
#include "conf/conf.h"
#include "kit/kit.h"

#define NOWHERE .dir = S("/nonexistent/etc"), .root = S("/nonexistent")

static struct postfix_conf conf_of(arena *a, str main, str master)
{
    struct postfix_conf c = { .a = a, NOWHERE };

    pf_read_main(&c, S("main.cf"), main);
    pf_read_master(&c, S("master.cf"), master);
    return c;
}

#define MASTER S("smtp inet n - y - - smtpd\nsmtp unix - - y - - smtp\nrelay unix - - y - - smtp\nerror unix - - y - - error\n" \
                 "discard unix - - y - - discard\nlocal unix - n n - - local\nfax unix - n n - - pipe\n  flags=u user=fax\n")

static str translated(arena *a, const char *main, struct made *m, struct postfix_conf *c)
{
    *c = conf_of(a, str_z(main), MASTER);
    pf_translate(c, m);
    return m->config;
}

static bool found(const struct postfix_conf *c, unsigned line, str name, enum became became)
{
    for (size_t i = 0; i < c->findings.n; i++)
        if (c->findings.p[i].line == line && str_eq(c->findings.p[i].name, name) && c->findings.p[i].became == became)
            return true;
    return false;
}

TEST(main_cf_lines_are_continued)
{
    AUTO_ARENA a = arena_new();
    struct postfix_conf c = conf_of(a, S("# a\nfirst = one\n  two # three\n\n# between\n\tfour\nsecond=x=y\n no more\nbroken\nfirst_of_last =\n"), S(""));

    CHECK_INT(c.nparam, 3);
    CHECK_STR(pf_value(&c, "first"), S("one two # three four"));     /* Postfix has no comments behind a value */
    CHECK_INT(c.param[0].line, 2);
    CHECK_STR(pf_value(&c, "second"), S("x=y no more"));
    CHECK(found(&c, 9, S("broken"), NOT_TRANSLATED));
    CHECK(pf_is_set(&c, S("first_of_last")));
    pf_free(&c);
}

TEST(main_cf_values_are_expanded)
{
    static const struct { const char *value; str want; } cases[] = {
        { "$a", S("x") }, { "${a}b$(a)", S("xbx") }, { "$$a", S("$a") }, { "$nothing.", S(".") },
        { "${a?yes}${a:no}", S("yes") }, { "${e?yes}${e:no}", S("no") }, { "${a?{y $a}:{n}}", S("y x") }, { "${e?{y}:{n $a}}", S("n x") },
        { "${nothing:$a}", S("x") }, { "${ {$a} == {x} ? {same} : {other} }", S("same") }, { "${{10} > {9} ? {num} : {text}}", S("num") },
        { "${{3.6} >=level {3.0} ? {new} : {old}}", S("new") }, { "${{$a} != {x} ? {other}}", S("") },
        { "$loop", S("") }, { "${a", S("") }, { "$mydomain", S("y.example") }, { "$myorigin", S("m.y.example") },
    };
    EACH(cases, k) {
        AUTO_ARENA a = arena_new();
        struct postfix_conf c = conf_of(a, S("a = x\ne =\nloop = $loop2\nloop2 = $loop\nmyhostname = m.y.example\n"), S(""));
        CHECK_STR(pf_expand(&c, str_z(k->value)), k->want, str_z(k->value));
        pf_free(&c);
    }
}

TEST(postfix_tables_are_read)
{
    AUTO_ARENA a = arena_new();
    struct postfix_conf c = conf_of(a, S("t = inline:{ one=1, { two = a b } } static:rest\n"), S(""));
    struct pf_table t = { 0 };

    pf_read_table(&c, S("file"), S("# x\nA@b.example  first\n  goes on\na@B.example second\n\"q q\"@c.example y\nnovalue\n"), PF_HASH, &t);
    CHECK_INT(t.n, 3);
    CHECK_STR(pf_look(&t, S("a@b.EXAMPLE"))->value, S("first goes on"));        /* the first of equals */
    CHECK_INT(pf_look(&t, S("a@b.example"))->line, 2);
    CHECK(pf_look(&t, S("\"q q\"@c.example")) && !pf_look(&t, S("q")));
    CHECK(found(&c, 6, S("novalue"), NOT_TRANSLATED));
    pf_tables(&c, "t", pf_value(&c, "t"), &t);
    CHECK_STR(pf_look(&t, S("two"))->value, S("a b"));
    CHECK_STR(t.anything, S("rest"));
    CHECK(!t.partial);
    pf_tables(&c, "t", S("regexp:/etc/x"), &t);
    CHECK(t.partial);
    pf_free(&c);
}

TEST(postfix_open_relays_are_not_translated)
{
    static const char *const mains[] = {
        "myhostname = a.example\nmynetworks = 0.0.0.0/0\nrelay_domains = b.example\n",
        "myhostname = a.example\nmynetworks = 10.0.0.0/8 [::]/0\nrelay_domains = b.example\n",
        "myhostname = a.example\nmynetworks = 0.0.0.0/1 128.0.0.0/1\nrelay_domains = b.example\n",
        "myhostname = a.example\nmynetworks = static:all\nrelay_domains = b.example\n",
        "myhostname = a.example\nsmtpd_relay_restrictions = permit\nrelay_domains = b.example\n",
        "compatibility_level = 0\nmyhostname = a.example\nsmtpd_recipient_restrictions = check_sender_access hash:/x, permit\nrelay_domains = b.example\n",
    };
    EACH(mains, m) {
        AUTO_ARENA a = arena_new();
        struct postfix_conf c;
        struct made made;
        str config = translated(a, *m, &made, &c);
        size_t refused = 0;
        for (size_t i = 0; i < c.findings.n; i++)
            refused += c.findings.p[i].became == REFUSED;
        CHECK(refused > 0, str_z(*m));
        config = str_from(config, str_find(config, S("\nwaypost 1\n")));     /* behind the lines to decide */
        CHECK(!str_has(config, S(" 0.0.0.0/")) && !str_has(config, S(" 128.0.0.0/")) && !str_has(config, S("::/0")), config);
        CHECK(made.decisions > 0, str_z(*m));
        pf_free(&c);
    }
}

TEST(postfix_networks_lose_what_is_left_out_of_them)
{
    AUTO_ARENA a = arena_new();
    struct postfix_conf c;
    struct made m;
    str config = translated(a, "myhostname = a.example\nmydestination =\nrelay_domains = b.example\nmynetworks = 172.16.0.0/12 !10.1.0.0/16 10.0.0.0/8, 10.2 192.168.7\n", &m, &c);

    CHECK(str_has(config, S("network mynetworks 172.16.0.0/12 10.2.0.0/16 192.168.7.0/24 {\n    relay_from b.example *.b.example a.example\n")), config);
    CHECK(found(&c, 4, S("mynetworks"), DECIDE));
    pf_free(&c);
}

TEST(postfix_domains_without_a_counterpart_take_nobody)
{
    AUTO_ARENA a = arena_new();
    struct postfix_conf c;
    struct made m;
    str config = translated(a, "myhostname = a.example\nmydestination =\nrelay_domains = fax.example, b.example\nparent_domain_matches_subdomains =\n"
                            "transport_maps = inline:{fax.example=fax:, b.example=smtp:[192.0.2.1]:26}\nrelay_recipient_maps = inline:{x@b.example=1}\n", &m, &c);

    CHECK(str_has(config, S("relay_domain fax.example {\n    backend    mx\n    recipients { file nobody.txt }\n")), config);
    CHECK(str_has(config, S("backend 192.0.2.1-26 {\n    server 192.0.2.1:26\n")), config);
    CHECK(str_has(config, S("# DECIDE: fax.example: ")), config);
    CHECK(found(&c, 3, S("relay_domains"), DECIDE));
    pf_free(&c);
}

/* A relay_domain would take mail from everybody. */
TEST(postfix_domains_that_are_left_out_are_told_of)
{
    AUTO_ARENA a = arena_new();
    struct made m = { 0 };
    struct postfix_conf c;
    str text = translated(a, "relay_domains = !bad.example.com example.com\n", &m, &c);

    CHECK(found(&c, 1, S("relay_domains"), DECIDE));
    CHECK(str_has(text, S("# DECIDE: relay_domains left bad.example.com out")));
    CHECK(str_has(text, S("example.com")) && !str_has(text, S("!bad")));
    pf_free(&c);
}

TEST(postfix_addresses_are_listened_at_once)
{
    AUTO_ARENA a = arena_new();
    struct made m = { 0 };
    struct postfix_conf c;

    CHECK(str_has(translated(a, "inet_protocols = ipv4\ninet_interfaces = localhost, 127.0.0.1\n", &m, &c), S("listen smtp 127.0.0.1:25\n")));
    pf_free(&c);
}

TEST(postfix_that_takes_nothing_from_strangers_stays_so)
{
    AUTO_ARENA a = arena_new();
    struct postfix_conf c;
    struct made m;
    str config = translated(a, "myhostname = a.example\nmydestination =\nrelay_domains = b.example\nmynetworks = 10.0.0.0/8\nrelayhost = [192.0.2.1]\n"
                            "virtual_alias_domains = c.example\nvirtual_alias_maps = inline:{x@c.example=x@b.example}\n"
                            "smtpd_client_restrictions = permit_mynetworks, reject\n", &m, &c);

    CHECK(!str_has(config, S("relay_domain ")) && !str_has(config, S("alias {")), config);
    CHECK(str_has(config, S("{ to b.example; via 192.0.2.1 }")) && str_has(config, S("{ to c.example; via bounce ")), config);
    CHECK(str_has(config, S("network mynetworks 10.0.0.0/8 {")) && str_has(config, S("# DECIDE: strangers could send nothing")), config);
    pf_free(&c);
}

TEST(postfix_bind_addresses_are_sources)
{
    AUTO_ARENA a = arena_new();
    struct made m;
    struct postfix_conf c = conf_of(a, S("myhostname = a.example\nmydestination =\nsmtp_bind_address = 192.0.2.5\nsmtp_helo_name = out.example\n"
                                         "transport_maps = inline:{b.example=bulk:[192.0.2.9], c.example=smtp:[192.0.2.8], d.example=bulk:}\nrelay_domains = b.example c.example\n"),
                                    S("smtp unix - - y - - smtp\nrelay unix - - y - - smtp\nbulk unix - - y - - smtp -o smtp_bind_address=192.0.2.6\n"));

    pf_translate(&c, &m);
    CHECK(str_has(m.config, S("source postfix 192.0.2.5 helo out.example\nsource bulk 192.0.2.6 helo out.example\nbackend mx { source postfix }\n")), m.config);
    CHECK(str_has(m.config, S("server 192.0.2.9:25\n    source bulk\n")), m.config);
    CHECK(str_has(m.config, S("server 192.0.2.8:25\n    source postfix\n")), m.config);
    CHECK(found(&c, 3, S("smtp_bind_address"), TRANSLATED) && found(&c, 5, S("transport_maps"), PARTLY));
    pf_free(&c);
}

TEST(postfix_soft_bounce_is_of_each_backend)
{
    AUTO_ARENA a = arena_new();
    struct postfix_conf c;
    struct made m;
    str config = translated(a, "myhostname = a.example\nmydestination =\nrelay_domains = b.example\nsoft_bounce = yes\nrelayhost = [192.0.2.1]\n", &m, &c);

    CHECK(str_has(config, S("backend mx { soft_bounce on }\n")) && str_has(config, S("server 192.0.2.1:25\n    soft_bounce on\n")), config);
    CHECK(found(&c, 4, S("soft_bounce"), PARTLY));
    pf_free(&c);
}

TEST(postfix_refusals_keep_their_words)
{
    AUTO_ARENA a = arena_new();
    struct made m;
    struct postfix_conf c = conf_of(a, S("myhostname = a.example\nmydestination =\nrelay_domains = b.example, old.example\nparent_domain_matches_subdomains =\n"
                                         "transport_maps = inline:{{x@b.example=error:5.1.1 has left}, {old.example=error:5.1.2 \"re\\named\"}, {no.example=error:not there}}\n"
                                         "relocated_maps = inline:{y@b.example=y@new.example}\n"
                                         "smtpd_recipient_restrictions = check_recipient_access inline:{{z@b.example=550 5.7.1 closed}, {w@b.example=450 later}}\n"),
                                    MASTER);

    pf_translate(&c, &m);
    str aliases = m.nfile ? m.file[0].text : S("");
    CHECK_STR(aliases, S("x@b.example  bounce:5.1.1 has left\n@old.example  bounce:5.1.2 ?re?named?\ny@b.example  bounce:5.1.6 moved to y@new.example\n"
                         "z@b.example  bounce:5.7.1 closed\n"));
    CHECK(str_has(m.config, S("{ to no.example; via bounce \"not there\" }")), m.config);
    CHECK(str_has(m.config, S("relay_domain old.example {\n    backend    mx\n    recipients { file nobody.txt }\n")), m.config);
    CHECK(found(&c, 7, S("w@b.example"), NOT_TRANSLATED));
    pf_free(&c);
}

/* Of each line something is said, and what is written is one of our configurations but for the lists, which are not there. */
TEST(postfix_lines_are_all_told_of)
{
    AUTO_ARENA a = arena_new();
    struct postfix_conf c;
    struct made m;
    str main = S("myhostname = a.example\nmydestination = a.example\nrelay_domains = b.example\nrelayhost = [192.0.2.1]\nfoo = $bar\nbar = 1\n"
                 "smtpd_tls_cert_file = x\nbiff = no\nmessage_size_limit = 0\nmaximal_queue_lifetime = 3\ndelay_warning_time = 4\nmynetworks = 10.0.0.0/8\n"
                 "virtual_alias_maps = hash:/none\nalways_bcc = x@b.example\nsmtpd_relay_restrictions = permit_mynetworks reject_rbl_client x.example, reject_unauth_destination\n"
                 "content_filter = scan:[127.0.0.1]:10024\nnotify_classes = 2bounce\nsmtpd_recipient_limit = 5\ninet_interfaces = 192.0.2.9, ::1\ninet_protocols = ipv4\n");
    str config = translated(a, str_cz(a, main), &m, &c), rest = main, line;
    struct diags d = { .a = a };
    struct node tree;

    for (unsigned n = 1; str_cut(&rest, S("\n"), &line) && line.n; n++) {
        bool told = false;
        for (size_t i = 0; i < c.findings.n; i++)
            told |= c.findings.p[i].line == n && str_eq(c.findings.p[i].file, S("main.cf"));
        CHECK(told, line);
    }
    CHECK_ERR(conf_parse(a, S("waypost.conf"), &config, &tree, &d), OK);
    CHECK_INT(d.n, 0);
    CHECK(str_has(config, S("listen smtp 192.0.2.9:25 [::1]:25\n")), config);
    CHECK(str_has(config, S("message_size 4000000000\n    recipients 100\n")), config);
    CHECK(str_has(config, S("] for 3d\ndelay_warning 4h\ndouble_bounce postmaster\n")), config);
    CHECK(str_has(config, S("copy_to    x@b.example")), config);
    CHECK(str_has(config, S("route default { via 192.0.2.1 }")), config);
    pf_free(&c);
}

TEST(attack_36_postfix_values_stay_words)
{
    AUTO_ARENA a = arena_new();
    struct postfix_conf c;
    struct made m;
    str config = translated(a, "myhostname = a.example\nrelay_domains = \"b.example { recipients any }\", c.example;x, d.example}network, #e\n"
                            "relayhost = [x;route]:25, [192.0.2.1]:25;\nmynetworks = 10.0.0.0/8} 10.0.0.0/8\nalways_bcc = a@b.example;c\n", &m, &c);

    CHECK(!str_has(config, S("recipients any }\"")) && !str_has(config, S("}network")) && !str_has(config, S("x;route")) && !str_has(config, S(";c")), config);
    pf_free(&c);
}
