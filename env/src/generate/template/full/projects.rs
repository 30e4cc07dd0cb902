//! Templates on project tasks.

use crate::generate::office::{BOARDS, LISTS};
use crate::generate::phrases::task_name;
use crate::generate::template::domain::PROJECTS;
use crate::generate::template::scene::{Scene, create_task, update_task};
use crate::generate::template::{call, tool};

use super::look_up::COMPLETED;
use super::{Draft, Template, full};

pub(super) const TEMPLATES: [Template; 5] = [
    full("task_create_soon", PROJECTS, 2, create_soon),
    full("task_unknown_list", PROJECTS, 2, unknown_list),
    full("task_move_on_board", PROJECTS, 3, move_on_board),
    full("task_postpone_overdue", PROJECTS, 4, postpone_overdue),
    full("task_delete_completed", PROJECTS, 4, delete_completed),
];

/// Lists that no board has.
const UNKNOWN_LISTS: [&str; 5] = ["Archive", "Blocked", "On Hold", "Someday", "Waiting"];

fn create_soon(scene: &mut Scene) -> Option<Draft> {
    let to = scene.teammate();
    let (name, when) = (task_name(scene.random), scene.soon());
    let (list, board) = (scene.random.word(&LISTS), scene.random.word(&BOARDS));
    let request = scene.say(
        &[
            "{to} has a new task, '{name}', due {when}. Put it in {list} on the {board} board.",
            "Create the task '{name}' for {to}. List {list}, board {board}, due {when}.",
            "Let {to} take care of '{name}': a task in {list} on the {board} board, due {when}.",
        ],
        &[("to", &to.name), ("name", &name), ("list", list), ("board", board), ("when", &when.words)],
    );
    let create = create_task(&name, to.address, list, &when.day.iso(), board);
    Some(Draft::unique(request, [to.find, create], [to.claim]))
}

fn unknown_list(scene: &mut Scene) -> Option<Draft> {
    let (task, search, claim) = scene.only_task()?;
    let list = scene.random.word(&UNKNOWN_LISTS);
    let request = scene.say(
        &["Move the task '{name}' to the list {list}.", "Please put '{name}' in the list {list}."],
        &[("name", &task.name), ("list", list)],
    );
    Some(Draft::unique(request, [search], [claim]))
}

fn move_on_board(scene: &mut Scene) -> Option<Draft> {
    let (task, search, claim) = scene.task_on_board()?;
    let list = scene.other(&LISTS, task.list);
    let request = scene.say(
        &[
            "Move the task '{name}' of the {board} board to {list}.",
            "There are several tasks '{name}'. Put the one on the {board} board in {list}.",
        ],
        &[("name", &task.name), ("board", task.board), ("list", list)],
    );
    Some(Draft::unique(request, [search, update_task(&task.id, "list_name", list)], [claim]))
}

fn postpone_overdue(scene: &mut Scene) -> Option<Draft> {
    let of = scene.teammate();
    let (tasks, search) = scene.overdue(&of);
    if !(1..=3).contains(&tasks.hits.len()) {
        return None;
    }
    let when = scene.soon();
    let request = scene.say(
        &[
            "Whatever {name} has not completed although it was due before today is now due {when}.",
            "Make the overdue tasks of {name}, those that are not completed, due {when}.",
        ],
        &[("name", &of.name), ("when", &when.words)],
    );
    let mut calls = vec![of.find, search];
    calls.extend(tasks.hits.iter().map(|task| update_task(&task.id, "due_date", &when.day.iso())));
    Some(Draft::unique(request, calls, [tasks.claim, of.claim]))
}

fn delete_completed(scene: &mut Scene) -> Option<Draft> {
    let of = scene.teammate();
    let board = scene.random.word(&BOARDS);
    let (tasks, search) = scene.tasks_in(&of, COMPLETED, board);
    if !(1..=4).contains(&tasks.hits.len()) {
        return None;
    }
    let request = scene.say(
        &[
            "Delete the completed tasks of {name} on the {board} board.",
            "Remove what {name} has completed from the {board} board.",
        ],
        &[("name", &of.name), ("board", board)],
    );
    let mut calls = vec![of.find, search];
    calls.extend(tasks.hits.iter().map(|task| call(tool::DELETE_TASK, &[("task_id", &task.id)])));
    Some(Draft::unique(request, calls, [tasks.claim, of.claim]))
}
