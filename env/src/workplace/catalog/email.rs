//! Schemas of the email tools.

use super::{PAGE, PAGE_SIZE, Parameter, TEXT, Tool};
use crate::workplace::email;

const EMAIL_ID: Parameter = ("email_id", TEXT, "The email's ID");

pub(super) static TOOLS: [Tool; 6] = [
    Tool {
        name: "email_get_email_information_by_id",
        method: "EmailTool.get_email_information_by_id",
        description: "Read one field of an email whose ID is known.",
        parameters: &[
            EMAIL_ID,
            (
                "field",
                TEXT,
                "Which field to read: 'email_id', 'inbox/outbox', 'sender/recipient', 'subject', 'sent_datetime' or 'body'",
            ),
        ],
        num_required: 2,
        run: email::get_email_information_by_id,
    },
    Tool {
        name: "email_search_emails",
        method: "EmailTool.search_emails",
        description: "Find emails that contain every word of the query in their subject, body or correspondent, newest first.",
        parameters: &[
            ("query", TEXT, "Words to look for"),
            ("date_min", TEXT, "Earliest day of sending to include, as YYYY-MM-DD"),
            ("date_max", TEXT, "Latest day of sending to include, as YYYY-MM-DD"),
            PAGE,
            PAGE_SIZE,
        ],
        num_required: 0,
        run: email::search_emails,
    },
    Tool {
        name: "email_send_email",
        method: "EmailTool.send_email",
        description: "Write an email to somebody.",
        parameters: &[
            ("recipient", TEXT, "Email address to send to"),
            ("subject", TEXT, "The email's subject"),
            ("body", TEXT, "The email's text"),
        ],
        num_required: 3,
        run: email::send_email,
    },
    Tool {
        name: "email_delete_email",
        method: "EmailTool.delete_email",
        description: "Remove an email from the mailbox.",
        parameters: &[EMAIL_ID],
        num_required: 1,
        run: email::delete_email,
    },
    Tool {
        name: "email_forward_email",
        method: "EmailTool.forward_email",
        description: "Pass an email on to somebody else.",
        parameters: &[EMAIL_ID, ("recipient", TEXT, "Email address to pass it on to")],
        num_required: 2,
        run: email::forward_email,
    },
    Tool {
        name: "email_reply_email",
        method: "EmailTool.reply_email",
        description: "Answer an email.",
        parameters: &[EMAIL_ID, ("body", TEXT, "Text of the answer")],
        num_required: 2,
        run: email::reply_email,
    },
];
