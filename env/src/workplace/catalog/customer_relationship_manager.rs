//! Schemas of the customer relationship manager tools.

use super::{PAGE, PAGE_SIZE, Parameter, TEXT, Tool};
use crate::workplace::customer_relationship_manager as crm;

const CUSTOMER_ID: Parameter = ("customer_id", TEXT, "The customer's ID");
const NEW_VALUE: Parameter = ("new_value", TEXT, "What the field should hold from now on");
const CUSTOMER_NAME: Parameter = ("customer_name", TEXT, "What the customer is called");
const CUSTOMER_EMAIL: Parameter = ("customer_email", TEXT, "The customer's email address");
const CUSTOMER_ASSIGNEE: Parameter =
    ("assigned_to_email", TEXT, "Email address of the colleague in charge of the customer");

pub(super) static TOOLS: [Tool; 4] = [
    Tool {
        name: "customer_relationship_manager_search_customers",
        method: "CustomerRelationshipManagerTool.search_customers",
        description: "Find customers that fit all that is given, page by page.",
        parameters: &[
            CUSTOMER_NAME,
            CUSTOMER_EMAIL,
            ("product_interest", TEXT, "Product the customer is interested in"),
            ("status", TEXT, "How far the sale has come"),
            CUSTOMER_ASSIGNEE,
            ("last_contact_date_min", TEXT, "Earliest day of last contact, as YYYY-MM-DD"),
            ("last_contact_date_max", TEXT, "Latest day of last contact, as YYYY-MM-DD"),
            ("follow_up_by_min", TEXT, "Earliest day of the next contact, as YYYY-MM-DD"),
            ("follow_up_by_max", TEXT, "Latest day of the next contact, as YYYY-MM-DD"),
            PAGE,
            PAGE_SIZE,
        ],
        num_required: 0,
        run: crm::search_customers,
    },
    Tool {
        name: "customer_relationship_manager_update_customer",
        method: "CustomerRelationshipManagerTool.update_customer",
        description: "Change one field of a customer.",
        parameters: &[
            CUSTOMER_ID,
            (
                "field",
                TEXT,
                "Which field to change: 'customer_name', 'assigned_to_email', 'customer_email', 'customer_phone', 'last_contact_date', 'product_interest', 'status', 'notes' or 'follow_up_by'",
            ),
            NEW_VALUE,
        ],
        num_required: 3,
        run: crm::update_customer,
    },
    Tool {
        name: "customer_relationship_manager_add_customer",
        method: "CustomerRelationshipManagerTool.add_customer",
        description: "Enter a new customer.",
        parameters: &[
            CUSTOMER_NAME,
            CUSTOMER_ASSIGNEE,
            ("status", TEXT, "How far the sale has come: 'Qualified', 'Won', 'Lost', 'Lead' or 'Proposal'"),
            CUSTOMER_EMAIL,
            ("customer_phone", TEXT, "The customer's telephone number"),
            ("last_contact_date", TEXT, "Day of the last contact, as YYYY-MM-DD"),
            (
                "product_interest",
                TEXT,
                "Product the customer is interested in: 'Software', 'Hardware', 'Services', 'Consulting' or 'Training'",
            ),
            ("notes", TEXT, "Anything else worth keeping"),
            ("follow_up_by", TEXT, "Day by which to get in touch again, as YYYY-MM-DD"),
        ],
        num_required: 3,
        run: crm::add_customer,
    },
    Tool {
        name: "customer_relationship_manager_delete_customer",
        method: "CustomerRelationshipManagerTool.delete_customer",
        description: "Remove a customer.",
        parameters: &[CUSTOMER_ID],
        num_required: 1,
        run: crm::delete_customer,
    },
];
