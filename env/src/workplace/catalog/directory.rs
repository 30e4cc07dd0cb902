//! Schemas of the directory tools.

use super::{TEXT, Tool};
use crate::workplace::directory;

pub(super) static TOOLS: [Tool; 1] = [Tool {
    name: "company_directory_find_email_address",
    method: "CompanyDirectoryTool.find_email_address",
    description: "Look up colleagues' email addresses by name; upper and lower case are the same.",
    parameters: &[("name", TEXT, "A name or a part of one")],
    num_required: 0,
    run: directory::find_email_address,
}];
