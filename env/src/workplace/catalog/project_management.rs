//! Schemas of the project management tools.

use super::{Parameter, TEXT, Tool};
use crate::workplace::project_management as tasks;

const TASK_ID: Parameter = ("task_id", TEXT, "The task's ID, eight digits");
const NEW_VALUE: Parameter = ("new_value", TEXT, "What the field should hold from now on");
const TASK_NAME: Parameter = ("task_name", TEXT, "What the task is called");
const TASK_ASSIGNEE: Parameter = ("assigned_to_email", TEXT, "Email address of the team member in charge of the task");
const DUE_DATE: Parameter = ("due_date", TEXT, "Day the task is due, as YYYY-MM-DD");

pub(super) static TOOLS: [Tool; 5] = [
    Tool {
        name: "project_management_get_task_information_by_id",
        method: "ProjectManagementTool.get_task_information_by_id",
        description: "Read one field of a task whose ID is known.",
        parameters: &[
            TASK_ID,
            (
                "field",
                TEXT,
                "Which field to read: 'task_id', 'task_name', 'assigned_to_email', 'list_name', 'due_date' or 'board'",
            ),
        ],
        num_required: 2,
        run: tasks::get_task_information_by_id,
    },
    Tool {
        name: "project_management_search_tasks",
        method: "ProjectManagementTool.search_tasks",
        description: "Find tasks that fit all that is given.",
        parameters: &[
            TASK_NAME,
            TASK_ASSIGNEE,
            ("list_name", TEXT, "List that holds the task"),
            DUE_DATE,
            ("board", TEXT, "Board that holds the task"),
        ],
        num_required: 0,
        run: tasks::search_tasks,
    },
    Tool {
        name: "project_management_create_task",
        method: "ProjectManagementTool.create_task",
        description: "Add a task to a board.",
        parameters: &[
            TASK_NAME,
            TASK_ASSIGNEE,
            ("list_name", TEXT, "List to put it on: 'Backlog', 'In Progress', 'In Review' or 'Completed'"),
            DUE_DATE,
            ("board", TEXT, "Board to put it on: 'Back end', 'Front end' or 'Design'"),
        ],
        num_required: 5,
        run: tasks::create_task,
    },
    Tool {
        name: "project_management_delete_task",
        method: "ProjectManagementTool.delete_task",
        description: "Remove a task.",
        parameters: &[TASK_ID],
        num_required: 1,
        run: tasks::delete_task,
    },
    Tool {
        name: "project_management_update_task",
        method: "ProjectManagementTool.update_task",
        description: "Change one field of a task.",
        parameters: &[
            TASK_ID,
            (
                "field",
                TEXT,
                "Which field to change: 'task_name', 'assigned_to_email', 'list_name', 'due_date' or 'board'",
            ),
            NEW_VALUE,
        ],
        num_required: 3,
        run: tasks::update_task,
    },
];
