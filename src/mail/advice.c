/* What became of a message, for people who never heard of SMTP: what happened, and what they can do. */
#include "mail/mail.h"

enum trouble {
    OTHER, OURS, NO_MAILBOX, MOVED, NO_DOMAIN, NULL_MX, DISABLED, FULL, TOO_LARGE, POLICY, SPAM, ENCRYPTION, EXPIRED, LOOP, NO_UTF8, NO_EIGHT_BIT, SYNTAX, SYSTEM,
    NO_ANSWER, TOO_MANY,
    TROUBLES
};

static const struct { str failed, delayed; } words[TROUBLES] = {
    [OTHER] = { S("The next mail server refused the message for good. Its own words may say why."),
                S("The next mail server did not take the message yet.") },
    [OURS] = { S("It could not be sent on from here."), S("It could not be sent on from here yet.") },
    [NO_MAILBOX] = { S("There is no such mailbox. Look for a typing error before the @, or ask the recipient for the right address; sending it again "
                       "to this one will not help."),
                     S("The mail server there does not know this mailbox just now.") },
    [MOVED] = { S("The recipient has moved to another address. If the server's answer names the new one, send it there."),
                S("The recipient's mailbox is being moved.") },
    [NO_DOMAIN] = { S("The part of the address behind the @ leads nowhere: there is no such domain, or nothing there takes mail. Look for a typing error "
                      "in it."),
                    S("It cannot be found out just now where mail for this domain goes.") },
    [NULL_MX] = { S("The domain behind the @ says of itself that it takes no mail at all. Ask the recipient for another address."),
                  S("The domain behind the @ takes no mail.") },
    [DISABLED] = { S("The mailbox exists but takes no mail: it is closed or disabled. Reach the recipient in another way."),
                   S("The mailbox takes no mail just now.") },
    [FULL] = { S("The recipient's mailbox is full. Ask them to make room in it, and send the message again after that."),
               S("The recipient's mailbox is full.") },
    [TOO_LARGE] = { S("The message is larger than the recipient's mail server takes. Send it without large attachments, or in parts."),
                    S("The message is too large for the recipient's mail server just now.") },
    [POLICY] = { S("The recipient's mail server does not want this message, by a rule of its own. Its answer may name the rule. If the message is "
                   "wanted, ask the recipient or your own mail administrator to have the rule looked at."),
                 S("The recipient's mail server puts the message off by a rule of its own.") },
    [SPAM] = { S("The recipient's mail server took the message for spam or for something harmful. If it is not, write to the recipient in another way, "
                 "or ask your own mail administrator to look at the server's answer."),
               S("The recipient's mail server is wary of the message and wants it to be sent again later.") },
    [ENCRYPTION] = { S("The message may only travel encrypted, and no such connection to the recipient's mail server could be made. Tell your mail "
                       "administrator."),
                     S("The message may only travel encrypted, and no such connection could be made yet.") },
    [EXPIRED] = { S("It was tried again and again, and did not get through in the time that is given to a message. Send it again later, or reach the "
                    "recipient in another way."),
                  S("It did not get through in time.") },
    [LOOP] = { S("The message went round in circles between mail servers. Only their administrators can mend that: show them this report."),
               S("The message seems to go round in circles.") },
    [NO_UTF8] = { S("An address or the header of the message has letters beyond ASCII, which the next mail server does not take. Ask the recipient for "
                    "an address in plain letters."),
                  S("The next mail server does not take letters beyond ASCII in addresses.") },
    [NO_EIGHT_BIT] = { S("The next mail server does not take the form that the message is written in, and it could not be put in another."),
                       S("The next mail server does not take the form that the message is written in.") },
    [SYNTAX] = { S("The next mail server does not take an address that is written like this. Look for a typing error in it."),
                 S("The next mail server had trouble with the address.") },
    [SYSTEM] = { S("The recipient's mail server is not fit to take the message. Try again later; if that does not help, ask the recipient to tell "
                   "their administrator."),
                 S("The recipient's mail server is not fit to take the message just now.") },
    [NO_ANSWER] = { S("No mail server of the recipient's domain could be reached. Look for a typing error behind the @, or try again later."),
                    S("No mail server of the recipient's domain could be reached yet.") },
    [TOO_MANY] = { S("The message has more recipients than the next mail server takes. Send it to fewer at a time."),
                   S("The next mail server takes no more recipients at a time.") },
};

/* RFC 3463's subject and detail, as people give them. */
static const struct { str detail; enum trouble is; } codes[] = {
    { S("1.1"), NO_MAILBOX }, { S("1.2"), NO_DOMAIN }, { S("1.3"), SYNTAX }, { S("1.6"), MOVED }, { S("1.10"), NULL_MX }, { S("2.1"), DISABLED },
    { S("2.2"), FULL }, { S("2.3"), TOO_LARGE }, { S("3.1"), SYSTEM }, { S("3.2"), SYSTEM }, { S("3.4"), TOO_LARGE }, { S("4.1"), NO_ANSWER },
    { S("4.3"), NO_DOMAIN }, { S("4.4"), NO_DOMAIN }, { S("4.6"), LOOP }, { S("4.7"), EXPIRED }, { S("5.3"), TOO_MANY }, { S("6.3"), NO_EIGHT_BIT },
    { S("6.7"), NO_UTF8 }, { S("7.4"), ENCRYPTION }, { S("7.5"), ENCRYPTION }, { S("7.10"), ENCRYPTION }, { S("7.11"), ENCRYPTION },
};

/* Where the code says too little ("5.0.0", "5.7.1") words have to; in this order. Lower case. */
static const struct { str word; enum trouble is; } hints[] = {
    { S("spam"), SPAM }, { S("blacklist"), SPAM }, { S("blocklist"), SPAM }, { S("block list"), SPAM }, { S("dnsbl"), SPAM }, { S("virus"), SPAM },
    { S("malware"), SPAM }, { S("reputation"), SPAM }, { S("junk"), SPAM }, { S("starttls"), ENCRYPTION }, { S("tls "), ENCRYPTION },
    { S("encrypt"), ENCRYPTION }, { S("over quota"), FULL }, { S("overquota"), FULL }, { S("quota exceeded"), FULL }, { S("mailbox full"), FULL },
    { S("mailbox is full"), FULL }, { S("too large"), TOO_LARGE }, { S("too big"), TOO_LARGE }, { S("size limit"), TOO_LARGE },
    { S("message size"), TOO_LARGE }, { S("no such user"), NO_MAILBOX }, { S("user unknown"), NO_MAILBOX }, { S("unknown user"), NO_MAILBOX },
    { S("no such recipient"), NO_MAILBOX }, { S("no such mailbox"), NO_MAILBOX }, { S("mailbox not found"), NO_MAILBOX },
    { S("recipient unknown"), NO_MAILBOX }, { S("unknown recipient"), NO_MAILBOX }, { S("does not exist"), NO_MAILBOX },
    { S("mailbox unavailable"), NO_MAILBOX }, { S("loop"), LOOP }, { S("policy"), POLICY }, { S("denied"), POLICY },
};

static enum trouble hinted(str diagnostic)
{
    AUTO_ARENA a = arena_new();
    str said = str_lower(a, diagnostic);

    for (size_t i = 0; i < COUNT(hints); i++)
        if (str_has(said, hints[i].word))
            return hints[i].is;
    /* RFC 5321 4.2.3: "exceeded storage allocation" */
    return str_starts(said, S("552")) || str_starts(said, S("452")) ? FULL : OTHER;
}

static enum trouble trouble_of(str status, str diagnostic)
{
    str detail = str_from(status, 2);

    for (size_t i = 0; i < COUNT(codes); i++)
        if (str_eq(detail, codes[i].detail))
            return codes[i].is;
    enum trouble t = hinted(diagnostic);
    if (str_starts(detail, S("7.")))
        return t == SPAM || t == ENCRYPTION || t == NO_MAILBOX ? t : POLICY;
    if (t == OTHER && str_starts(detail, S("4.")))
        return NO_ANSWER;
    return t == OTHER && diagnostic.n == 0 ? OURS : t;
}

str report_advice(enum report_action action, str status, str diagnostic)
{
    switch (action) {
    case REPORT_FAILED:
        return words[trouble_of(status, diagnostic)].failed;
    case REPORT_DELAYED:
        return words[trouble_of(status, diagnostic)].delayed;
    case REPORT_DELIVERED:
        return S("It lies in the recipient's mailbox.");
    case REPORT_RELAYED:
        return S("The next mail server took it, and will not tell whether it arrived.");
    case REPORT_EXPANDED:
        return S("It went on to all who stand behind this address; whether it reached each of them is not told.");
    }
    return S("");
}
