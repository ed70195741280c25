"""Every reply the ingress gives, in one place. The texts are for people at the other end.

The details of an internal failure go to the log, never to the client; an internal failure is
always a 4xx. Sources: RFC 5321 section 4.2.3, RFC 3463, and what Postfix answers.
"""

from __future__ import annotations

from mailrelay.mail.reply import Reply

SENDER_OK = Reply(250, "2.1.0", "Sender OK")
RECIPIENT_OK = Reply(250, "2.1.5", "Recipient OK")
RESET_OK = Reply(250, "2.0.0", "OK")
START_MAIL_INPUT = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
CANNOT_VERIFY = Reply(252, "2.5.2", "Cannot verify, but will take mail for it and try")

SEND_HELO_FIRST = Reply(503, "5.5.1", "Send EHLO or HELO first")
NESTED_MAIL = Reply(503, "5.5.1", "Nested MAIL command")
NEED_MAIL = Reply(503, "5.5.1", "Need MAIL before RCPT")
NEED_RCPT = Reply(503, "5.5.1", "Need RCPT before DATA")
MAIL_SYNTAX = Reply(501, "5.5.4", "Syntax: MAIL FROM:<address> [parameters]")
RCPT_SYNTAX = Reply(501, "5.5.4", "Syntax: RCPT TO:<address>")
DATA_SYNTAX = Reply(501, "5.5.4", "Syntax: DATA")
BAD_SENDER = Reply(501, "5.1.7", "Bad sender address syntax")
BAD_RECIPIENT = Reply(501, "5.1.3", "Bad recipient address syntax")
NULL_RECIPIENT = Reply(501, "5.1.3", "A recipient cannot be <>")
SENDER_NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "Non-ASCII sender address needs SMTPUTF8")
RECIPIENT_NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "Non-ASCII recipient address needs SMTPUTF8")
BAD_SIZE = Reply(501, "5.5.4", "SIZE takes a number")
BAD_BODY = Reply(501, "5.5.4", "BODY takes 7BIT or 8BITMIME")
NO_ENVELOPE_PARAMETER_VALUE = Reply(501, "5.5.4", "SMTPUTF8 takes no value")
UNKNOWN_PARAMETER = Reply(555, "5.5.4", "MAIL or RCPT parameter not recognized")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients, send the rest separately")

AUTH_REQUIRED = Reply(530, "5.7.0", "Authentication required")
AUTHENTICATED = Reply(235, "2.7.0", "Authentication successful")
BAD_CREDENTIALS = Reply(535, "5.7.8", "Authentication credentials invalid")
AUTH_UNAVAILABLE = Reply(454, "4.7.0", "Temporary authentication failure, try again later")
AUTH_IN_TRANSACTION = Reply(503, "5.5.1", "AUTH is not permitted during a mail transaction")
AUTH_LINE_TOO_LONG = Reply(500, "5.5.6", "Authentication exchange line is too long")
TOO_MANY_FAILED_LOGINS = Reply(421, "4.7.0", "Too many failed logins, try again later")
CLIENT_DENIED = Reply(550, "5.7.1", "Client host denied: this relay serves known networks only")
TOO_MANY_CONNECTIONS = Reply(421, "4.7.0", "Too many connections, try again later")
SHUTTING_DOWN = Reply(421, "4.3.2", "Service shutting down, try again later")
IDLE = Reply(421, "4.4.2", "Idle for too long, closing")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, closing")
TLS_NOT_AVAILABLE = Reply(454, "4.7.0", "TLS not available")
TLS_ALREADY = Reply(503, "5.5.1", "TLS is already active")
LOCAL_ERROR = Reply(451, "4.3.0", "Local error in processing, try again later")

BARE_LINE_END = Reply(521, "5.5.2", "Bare <CR> or <LF> in message data, closing")
LINE_TOO_LONG = Reply(554, "5.6.0", "Message has a line longer than 998 octets")
NUL_IN_MESSAGE = Reply(554, "5.6.0", "Message contains a NUL octet")
TOO_BIG = Reply(552, "5.3.4", "Message size exceeds fixed limit")
LOOP = Reply(554, "5.4.6", "Too many hops: mail loop")

QUEUE_UNREACHABLE = Reply(451, "4.3.0", "Queue temporarily unavailable, try again later")
TOO_SLOW = Reply(421, "4.4.2", "Message data took too long or does not end, closing")
SENDER_OVER_LIMIT = Reply(450, "4.7.1", "Sender has reached its limit, try again later")
RELAY_OVER_LIMIT = Reply(451, "4.3.2", "This relay has reached its limit, try again later")
BUSY = Reply(452, "4.3.1", "Too much mail at once, try again later")
QUEUE_FULL = Reply(452, "4.3.1", "Queue full, try again later")


def accepted(queue_id: str) -> Reply:
    """Say that the mail is safe in the queue."""
    return Reply(250, "2.0.0", f"OK: queued as {queue_id}")


# Enhanced codes for replies that aiosmtpd gives without one (RFC 2034 asks for one on all).
ENHANCED_BY_CODE = {
    "221": "2.0.0",
    "250": "2.0.0",
    "235": "2.7.0",
    "454": "4.7.0",
    "500": "5.5.2",
    "501": "5.5.4",
    "502": "5.5.1",
    "503": "5.5.1",
    "504": "5.5.4",
    "538": "5.7.11",
    "554": "5.7.0",
}
