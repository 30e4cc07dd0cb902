//! Templates on project tasks.

use crate::generate::office::{BOARDS, LISTS};
use crate::generate::phrases::task_name;

use super::scene::{Scene, create_task, find_address, search_tasks, update_task};
use super::{Draft, Template, call, domain::PROJECTS, template, tool};

pub(super) const TEMPLATES: [Template; 7] = [
    template("task_create", PROJECTS, 1, create),
    template("task_move_by_id", PROJECTS, 1, move_by_id),
    template("task_move", PROJECTS, 2, move_task),
    template("task_due", PROJECTS, 2, due),
    template("task_delete", PROJECTS, 2, delete),
    template("task_reassign", PROJECTS, 3, reassign),
    template("task_reassign_all", PROJECTS, 4, reassign_all),
];

/// Of 100 fillings, how many name a task that does not exist.
const NOTHING_FOUND_PERCENT: usize = 15;

fn create(scene: &mut Scene) -> Option<Draft> {
    let to = &scene.assignee().address;
    let (name, due) = (task_name(scene.random), scene.future_day());
    let (list, board) = (scene.random.word(&LISTS), scene.random.word(&BOARDS));
    let request = scene.say(
        &[
            "Create the task '{name}' for {to} in {list} on the {board} board, due {due}.",
            "Add '{name}' to {list} on the {board} board, assigned to {to} and due {due}.",
            "New task for {to}: '{name}', due {due}, list {list}, board {board}.",
        ],
        &[("name", &name), ("to", to), ("list", list), ("board", board), ("due", &due)],
    );
    Some(Draft::new(request, [create_task(&name, to, list, &due, board)]))
}

fn move_by_id(scene: &mut Scene) -> Option<Draft> {
    let task = scene.random.pick(&scene.world.tasks);
    let list = scene.other(&LISTS, task.list);
    let request = scene.say(
        &["Move task {id} to {list}.", "Put the task with id {id} in {list}."],
        &[("id", &task.id), ("list", list)],
    );
    Some(Draft::new(request, [update_task(&task.id, "list_name", list)]))
}

fn move_task(scene: &mut Scene) -> Option<Draft> {
    let (task, search) = scene.task()?;
    let list = scene.other(&LISTS, task.list);
    let request = scene.say(
        &[
            "Move the task '{name}' to {list}.",
            "Put '{name}' in the list {list}.",
            "The task '{name}' belongs in {list} now, please move it.",
        ],
        &[("name", &task.name), ("list", list)],
    );
    let update = update_task(&task.id, "list_name", list);
    Some(Draft::new(request, [search, update]))
}

fn due(scene: &mut Scene) -> Option<Draft> {
    let (task, search) = scene.task()?;
    let due = scene.future_day();
    if due == task.due.iso() {
        return None;
    }
    let request = scene.say(
        &[
            "Change the due date of the task '{name}' to {due}.",
            "The task '{name}' is now due {due}.",
            "Make '{name}' due on {due}.",
        ],
        &[("name", &task.name), ("due", &due)],
    );
    let update = update_task(&task.id, "due_date", &due);
    Some(Draft::new(request, [search, update]))
}

fn delete(scene: &mut Scene) -> Option<Draft> {
    const WORDINGS: [&str; 3] = [
        "Delete the task '{name}'.",
        "Remove '{name}' from the tasks.",
        "We no longer need the task '{name}', delete it.",
    ];
    if scene.random.chance(NOTHING_FOUND_PERCENT) {
        let name = task_name(scene.random);
        let none = scene.world.tasks_matching(&name).is_empty();
        let request = scene.say(&WORDINGS, &[("name", &name)]);
        return none.then(|| Draft::new(request, [search_tasks(&name)]));
    }
    let (task, search) = scene.task()?;
    let request = scene.say(&WORDINGS, &[("name", &task.name)]);
    let delete = call(tool::DELETE_TASK, &[("task_id", &task.id)]);
    Some(Draft::new(request, [search, delete]))
}

fn reassign(scene: &mut Scene) -> Option<Draft> {
    let (task, search) = scene.task()?;
    let to = scene.assignee();
    if to.address == scene.world.people[task.assignee].address {
        return None;
    }
    let request = scene.say(
        &[
            "Reassign the task '{name}' to {to}.",
            "Give the task '{name}' to {to}.",
            "{to} takes over the task '{name}', please reassign it.",
        ],
        &[("name", &task.name), ("to", &to.first)],
    );
    let update = update_task(&task.id, "assigned_to_email", &to.address);
    Some(Draft::new(request, [search, find_address(&to.first), update]))
}

fn reassign_all(scene: &mut Scene) -> Option<Draft> {
    let from = scene.team_member();
    let (list, board) = (scene.random.word(&LISTS), scene.random.word(&BOARDS));
    let tasks = scene.world.tasks.iter();
    let hits: Vec<_> = tasks.filter(|task| task.assignee == from && task.list == list && task.board == board).collect();
    let (from, to) = (&scene.world.people[from], scene.assignee());
    // Two look-ups of addresses and the search leave two changes of the five calls.
    if hits.is_empty() || hits.len() > 2 || from.address == to.address {
        return None;
    }
    let request = scene.say(
        &[
            "Reassign all {list} tasks of {from} on the {board} board to {to}.",
            "Give {to} every {board} task of {from} in {list}.",
        ],
        &[("list", list), ("board", board), ("from", &from.first), ("to", &to.first)],
    );
    let search =
        call(tool::SEARCH_TASKS, &[("assigned_to_email", &from.address), ("list_name", list), ("board", board)]);
    let mut calls = vec![find_address(&from.first), search, find_address(&to.first)];
    let updates = hits.iter().map(|task| update_task(&task.id, "assigned_to_email", &to.address));
    calls.extend(updates);
    Some(Draft::new(request, calls))
}
