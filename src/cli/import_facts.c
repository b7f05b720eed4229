/* Limits, times and reports: one parameter, one line. And what is to be said of all other parameters. */
#include "cli/import_inside.h"

#include "conf/conf.h"

static bool number(struct relay *r, const char *name, uint64_t most, uint64_t *ret)
{
    if (str_u64(pf_value(r->c, name), most, ret))
        return true;
    pf_find(r->c, name, NOT_TRANSLATED, "\"%.*s\" is no number", STR(pf_value(r->c, name)));
    return false;
}

static void tell_set(struct relay *r, const char *name, enum became became, const char *what)
{
    if (pf_is_set(r->c, str_z(name)))
        pf_find(r->c, name, became, "%s", what);
}

/* ---- limits ---- */

static void write_limits(struct relay *r, struct buf *out)
{
    uint64_t n;

    buf_add(out, S("limits {\n"));
    if (number(r, "message_size_limit", INT64_MAX, &n)) {
        uint64_t size = n == 0 ? 4000000000 : MIN(MAX(n, 65536), 4000000000);
        buf_addf(out, "    message_size %llu\n", (unsigned long long)size);
        pf_find(r->c, "message_size_limit", size == n ? TRANSLATED : PARTLY, "limits { message_size %llu }", (unsigned long long)size);
    }
    if (number(r, "smtpd_recipient_limit", INT64_MAX, &n)) {
        buf_addf(out, "    recipients %llu\n", (unsigned long long)MIN(MAX(n, 100), 100000));
        tell_set(r, "smtpd_recipient_limit", n >= 100 && n <= 100000 ? TRANSLATED : PARTLY, "limits { recipients }, from 100 to 100000");
    }
    if (number(r, "smtpd_client_connection_count_limit", INT64_MAX, &n)) {
        if (n)
            buf_addf(out, "    sessions_per_client %llu\n", (unsigned long long)MIN(n, 1000000));
        else
            buf_add(out, S("    sessions_per_client 1000000\n"));
        tell_set(r, "smtpd_client_connection_count_limit", TRANSLATED, "limits { sessions_per_client }");
    }
    if (pf_is_set(r->c, S("hopcount_limit")) && number(r, "hopcount_limit", INT64_MAX, &n)) {
        buf_addf(out, "    hops %llu\n", (unsigned long long)MIN(MAX(n, 10), 100));
        pf_find(r->c, "hopcount_limit", n >= 10 && n <= 100 ? TRANSLATED : PARTLY, "limits { hops }, from 10 to 100");
    }
    buf_add(out, S("}\n"));
    when t;
    if (pf_is_set(r->c, S("smtpd_timeout")) && pf_time(pf_value(r->c, "smtpd_timeout"), 's', &t)) {
        t = MIN(MAX(t, SECOND), HOUR);
        buf_addf(out, "timeouts { command %.*s }\n", STR(conf_print_time(r->a, t)));
        pf_find(r->c, "smtpd_timeout", TRANSLATED, "timeouts { command %.*s }", STR(conf_print_time(r->a, t)));
    }
}

/* ---- waiting ---- */

static bool time_of(struct relay *r, const char *name, char unit, when least, when most, when *ret)
{
    if (!pf_time(pf_value(r->c, name), unit, ret)) {
        pf_find(r->c, name, NOT_TRANSLATED, "\"%.*s\" is no time", STR(pf_value(r->c, name)));
        return false;
    }
    bool within = *ret >= least && *ret <= most;
    *ret = MIN(MAX(*ret, least), most);
    tell_set(r, name, within ? TRANSLATED : PARTLY, str_cz(r->a, conf_print_time(r->a, *ret)));
    return true;
}

static void write_waiting(struct relay *r, struct buf *out)
{
    when least = 5 * MINUTE, most = 4000 * SECOND, lifetime = 5 * DAY, warn = 0;

    time_of(r, "minimal_backoff_time", 's', SECOND, 30 * DAY, &least);
    time_of(r, "maximal_backoff_time", 's', SECOND, 30 * DAY, &most);
    time_of(r, "maximal_queue_lifetime", 'd', MINUTE, 60 * DAY, &lifetime);
    buf_add(out, S("retry ["));
    for (unsigned i = 0; i < 20 && least < most; i++, least *= 2)      /* qmgr(8): waits double, up to the largest */
        buf_addf(out, " %.*s", STR(conf_print_time(r->a, least)));
    buf_addf(out, " %.*s ] for %.*s\n", STR(conf_print_time(r->a, most)), STR(conf_print_time(r->a, lifetime)));
    if (pf_time(pf_value(r->c, "delay_warning_time"), 'h', &warn) && warn > 30 * DAY)
        warn = 30 * DAY;
    buf_addf(out, "delay_warning %.*s\n", STR(conf_print_time(r->a, warn)));
    tell_set(r, "delay_warning_time", TRANSLATED, str_cz(r->a, str_printf(r->a, "delay_warning %.*s; waypost warns senders of its own only", STR(conf_print_time(r->a, warn)))));
    bool twice = str_has(pf_value(r->c, "notify_classes"), S("2bounce"));
    buf_addf(out, "double_bounce %s\n", twice ? "postmaster" : "drop");
    tell_set(r, "notify_classes", PARTLY, twice ? "double_bounce postmaster; waypost writes no other mails to the postmaster: metrics and the log tell" :
             "double_bounce drop; waypost writes no other mails to the postmaster: metrics and the log tell");
    tell_set(r, "bounce_queue_lifetime", NOT_TRANSLATED, "reports live as long as other mail");
}

void facts_write(struct relay *r, struct buf *out)
{
    write_limits(r, out);
    write_waiting(r, out);
}

/* ---- all the others ---- */

/* What can be said of a parameter that is set and was not translated. * is any run of characters. */
static const struct { const char *name; enum became became; const char *what; } known[] = {
    { "compatibility_level", NEEDLESS, "which of Postfix' defaults count" },
    { "content_filter", DECIDE, "mail is not passed through a filter: see what stands at the head of the file" },
    { "smtpd_milters", NOT_TRANSLATED, "no filters yet" },
    { "non_smtpd_milters", NOT_TRANSLATED, "no filters yet" },
    { "milter_*", NOT_TRANSLATED, "no filters yet" },
    { "smtpd_proxy_filter", DECIDE, "mail is not passed through a filter" },
    { "header_checks", NOT_TRANSLATED, "content is not judged" },
    { "mime_header_checks", NOT_TRANSLATED, "content is not judged" },
    { "nested_header_checks", NOT_TRANSLATED, "content is not judged" },
    { "body_checks", NOT_TRANSLATED, "content is not judged" },
    { "smtp_header_checks", NOT_TRANSLATED, "content is not judged" },
    { "canonical_maps", NOT_TRANSLATED, "addresses are not rewritten" },
    { "sender_canonical_maps", NOT_TRANSLATED, "addresses are not rewritten" },
    { "recipient_canonical_maps", NOT_TRANSLATED, "addresses are not rewritten" },
    { "smtp_generic_maps", NOT_TRANSLATED, "addresses are not rewritten" },
    { "masquerade_*", NOT_TRANSLATED, "addresses are not rewritten" },
    { "sender_bcc_maps", NOT_TRANSLATED, "copies are made by recipient only" },
    { "sender_dependent_default_transport_maps", NOT_TRANSLATED, "a route from these senders can do it" },
    { "smtpd_tls_*", NOT_TRANSLATED, "no TLS yet" },
    { "smtp_tls_*", NOT_TRANSLATED, "no TLS yet" },
    { "smtp_use_tls", NOT_TRANSLATED, "no TLS yet" },
    { "smtpd_use_tls", NOT_TRANSLATED, "no TLS yet" },
    { "lmtp_tls_*", NOT_TRANSLATED, "no TLS yet" },
    { "tls_*", NOT_TRANSLATED, "no TLS yet" },
    { "smtpd_sasl_*", NOT_TRANSLATED, "no logins yet" },
    { "smtp_sasl_auth_enable", DECIDE, "waypost cannot log in at a next hop yet: one that asks for it will refuse the mail" },
    { "smtp_sasl_*", NOT_TRANSLATED, "waypost cannot log in at a next hop yet" },
    { "broken_sasl_auth_clients", NOT_TRANSLATED, "no logins yet" },
    { "soft_bounce", NEEDLESS, "off" },
    { "smtp_helo_name", NOT_TRANSLATED, "a name of its own belongs to a \"source\", which is an address (smtp_bind_address)" },
    { "smtpd_banner", NOT_TRANSLATED, "the greeting is the hostname's" },
    { "postscreen_*", NOT_TRANSLATED, "no such tests" },
    { "smtpd_client_*", NOT_TRANSLATED, "see \"limits\" and the rate of a \"network\"" },
    { "smtpd_helo_required", NEEDLESS, "always so" },
    { "strict_rfc821_envelopes", NEEDLESS, "always so" },
    { "disable_vrfy_command", NEEDLESS, "VRFY tells nothing" },
    { "smtpd_delay_reject", NEEDLESS, "decisions are made at RCPT" },
    { "smtpd_reject_unlisted_*", NEEDLESS, "unknown recipients are refused, always" },
    { "smtpd_forbid_*", NEEDLESS, "bare LF and CR are refused, always" },
    { "smtpd_data_restrictions", NEEDLESS, "clients that speak out of turn are refused, always" },
    { "smtpd_end_of_data_restrictions", NOT_TRANSLATED, "content is not judged" },
    { "smtpd_restriction_classes", NOT_TRANSLATED, "lists of restrictions of one's own" },
    { "smtpd_upstream_proxy_*", DECIDE, "see proxy in \"listen\": which proxies may announce clients?" },
    { "smtpd_error_sleep_time", NEEDLESS, "probing clients are slowed, see unknown_recipients" },
    { "smtpd_soft_error_limit", NEEDLESS, "probing clients are slowed, see unknown_recipients" },
    { "smtpd_hard_error_limit", NOT_TRANSLATED, "see limits { nonsense; refused_recipients }" },
    { "smtpd_junk_command_limit", NOT_TRANSLATED, "see limits { nonsense }" },
    { "smtpd_peername_lookup", NEEDLESS, "clients' names are not looked up" },
    { "queue_minfree", NOT_TRANSLATED, "see spool { min_free }" },
    { "local_header_rewrite_clients", NEEDLESS, "headers are not rewritten" },
    { "remote_header_rewrite_domain", NEEDLESS, "headers are not rewritten" },
    { "append_dot_mydomain", NEEDLESS, "addresses are not completed" },
    { "append_at_myorigin", NEEDLESS, "addresses are not completed" },
    { "swap_bangpath", NEEDLESS, "addresses are not rewritten" },
    { "allow_percent_hack", NEEDLESS, "such local parts are refused, see tricky_local_parts" },
    { "transport_retry_time", NEEDLESS, "servers that are out are left alone and probed" },
    { "queue_run_delay", NEEDLESS, "each message has its own time" },
    { "smtp_host_lookup", NEEDLESS, "see \"dns\"" },
    { "smtp_dns_support_level", NEEDLESS, "see \"dns\"" },
    { "disable_dns_lookups", NOT_TRANSLATED, "see \"dns\"" },
    { "proxy_interfaces", NEEDLESS, "it names no address" },
    { "mailbox_command", NOT_TRANSLATED, "nothing is delivered to mailboxes" },
    { "mailbox_size_limit", NEEDLESS, "nothing is delivered to mailboxes" },
    { "home_mailbox", NOT_TRANSLATED, "nothing is delivered to mailboxes" },
    { "mail_spool_directory", NEEDLESS, "nothing is delivered to mailboxes" },
    { "luser_relay", NOT_TRANSLATED, "nothing is delivered to mailboxes" },
    { "virtual_mailbox_base", NEEDLESS, "nothing is delivered to mailboxes" },
    { "virtual_uid_maps", NEEDLESS, "nothing is delivered to mailboxes" },
    { "virtual_gid_maps", NEEDLESS, "nothing is delivered to mailboxes" },
    { "virtual_minimum_uid", NEEDLESS, "nothing is delivered to mailboxes" },
    { "mailbox_transport", NOT_TRANSLATED, "local(8) is not asked for mail of any domain" },
    { "fallback_transport", NOT_TRANSLATED, "local(8) is not asked for mail of any domain" },
    { "alias_database", NEEDLESS, "what newaliases makes" },
    { "inet_interfaces", NEEDLESS, "every listener names its address" },
    { "mynetworks_style", TRANSLATED, "see mynetworks" },
    { "biff", NEEDLESS, "" }, { "readme_directory", NEEDLESS, "" }, { "html_directory", NEEDLESS, "" }, { "manpage_directory", NEEDLESS, "" },
    { "sample_directory", NEEDLESS, "" }, { "queue_directory", NEEDLESS, "" }, { "data_directory", NEEDLESS, "" }, { "command_directory", NEEDLESS, "" },
    { "daemon_directory", NEEDLESS, "" }, { "mail_owner", NEEDLESS, "" }, { "setgid_group", NEEDLESS, "" }, { "default_privs", NEEDLESS, "" },
    { "sendmail_path", NEEDLESS, "" }, { "newaliases_path", NEEDLESS, "" }, { "mailq_path", NEEDLESS, "" }, { "debugger_command", NEEDLESS, "" },
    { "debug_peer_*", NEEDLESS, "" }, { "meta_directory", NEEDLESS, "" }, { "shlib_directory", NEEDLESS, "" }, { "syslog_*", NEEDLESS, "" },
    { "maillog_*", NEEDLESS, "" }, { "smtpd_tls_loglevel", NEEDLESS, "" }, { "hash_queue_*", NEEDLESS, "" }, { "enable_long_queue_ids", NEEDLESS, "" },
    { "default_process_limit", NEEDLESS, "" }, { "qmgr_*", NEEDLESS, "" }, { "max_use", NEEDLESS, "" }, { "max_idle", NEEDLESS, "" },
    { "in_flow_delay", NEEDLESS, "" }, { "initial_destination_concurrency", NEEDLESS, "" }, { "unknown_local_recipient_reject_code", NEEDLESS, "" },
    { "authorized_*", NEEDLESS, "" }, { "import_environment", NEEDLESS, "" }, { "smtputf8_enable", NEEDLESS, "always on" },
    { "address_verify_*", NEEDLESS, "\"callout\" has times of its own" }, { "anvil_*", NEEDLESS, "" }, { "smtp_connection_*", NEEDLESS, "connections are kept for idle_timeout" },
    { "*_notice_recipient", NOT_TRANSLATED, "the postmaster" }, { "bounce_size_limit", NOT_TRANSLATED, "reports hold up to 64 KiB of the mail" },
    { "bounce_template_file", NOT_TRANSLATED, "reports have texts of their own" }, { "double_bounce_sender", NEEDLESS, "reports come from <>" },
    { "header_size_limit", NOT_TRANSLATED, "see limits { header_size }" }, { "body_checks_size_limit", NEEDLESS, "content is not judged" },
    { "*_destination_recipient_limit", NOT_TRANSLATED, "a message goes out with all its recipients of a domain" },
    { "*_destination_concurrency_limit", NEEDLESS, "no next hop here is of that transport" }, { "*_destination_rate_delay", NEEDLESS, "no next hop here is of that transport" },
    { "*_destination_concurrency_*", NEEDLESS, "connections follow what servers take" }, { "smtp_*_timeout", NOT_TRANSLATED, "as RFC 5321 4.5.3.2 says" },
    { "lmtp_*_timeout", NOT_TRANSLATED, "as RFC 5321 4.5.3.2 says" }, { "smtp_mx_*", NEEDLESS, "all hosts of the best preference are tried, then the next" },
    { "smtp_bind_address_enforce", NEEDLESS, "a source is always so" }, { "undisclosed_recipients_header", NEEDLESS, "headers are not rewritten" },
    { "always_add_missing_headers", NEEDLESS, "headers are not rewritten" }, { "enable_original_recipient", NEEDLESS, "" }, { "multi_instance_*", NEEDLESS, "" },
    { "smtp_randomize_addresses", NEEDLESS, "always so" }, { "smtpd_sender_login_maps", NOT_TRANSLATED, "no logins yet" },
    { "smtpd_discard_ehlo_*", NOT_TRANSLATED, "all is offered" }, { "smtp_discard_ehlo_*", NOT_TRANSLATED, "what a server offers is used" },
    { "smtpd_log_access_permit_actions", NEEDLESS, "each decision is in the log" },
};

static bool fits(const char *pattern, str name)
{
    str p = str_z(pattern);
    size_t star = str_findc(p, '*');

    if (star == STR_NONE)
        return str_eq(p, name);
    str head = str_head(p, star), tail = str_from(p, star + 1);
    if (str_ends(tail, S("*")))         /* "*_middle_*" */
        return str_has(name, str_head(tail, tail.n - 1));
    return name.n >= head.n + tail.n && str_starts(name, head) && str_ends(name, tail);
}

/* Is it a name of the admin's own, that other values are made with? */
static bool is_used(const struct relay *r, str name)
{
    for (size_t i = 0; i < r->c->nparam; i++) {
        str value = r->c->param[i].value;
        if (str_has(value, str_printf(r->a, "$%.*s", STR(name))) || str_has(value, str_printf(r->a, "{%.*s", STR(name))) || str_has(value, str_printf(r->a, "(%.*s)", STR(name))))
            return true;
    }
    return false;
}

void facts_rest(struct relay *r)
{
    static const char *const taken[] = { "myhostname", "mydomain", "myorigin", "recipient_delimiter" };

    for (size_t i = 0; i < r->c->nparam; i++) {
        struct pf_param *p = &r->c->param[i];
        size_t k = 0;
        if (p->told)
            continue;
        for (k = 0; k < COUNT(taken) && !str_eq(str_z(taken[k]), p->name); k++)
            ;
        if (k < COUNT(taken)) {
            pf_find(r->c, taken[k], TRANSLATED, "%.*s", STR(pf_expand(r->c, p->value)));
            continue;
        }
        for (k = 0; k < COUNT(known) && !fits(known[k].name, p->name); k++)
            ;
        p->told = true;
        if (pf_expand(r->c, p->value).n == 0)
            pf_find_at(r->c, p->file, p->line, p->name, NEEDLESS, "empty");
        else if (k < COUNT(known))
            pf_find_at(r->c, p->file, p->line, p->name, known[k].became, "%s", *known[k].what ? known[k].what : "of Postfix' own build-up");
        else if (is_used(r, p->name))
            pf_find_at(r->c, p->file, p->line, p->name, TRANSLATED, "used in other values");
        else
            pf_find_at(r->c, p->file, p->line, p->name, NOT_TRANSLATED, "this import knows nothing of it");
    }
}
