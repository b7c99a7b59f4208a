//! Which tasks and which plans an evaluation runs.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Result, bail};
use eunoe_kv::{Claim, Plan};
use eunoe_report::Manifest;
use eunoe_tasks::{GROUPS, LIST, Task};

use crate::nearest::nearest;
use crate::profiles;

/// Tasks × lengths × plans, from the command line or a manifest.
pub(crate) struct Grid {
    pub(crate) tasks: Vec<&'static dyn Task>,
    pub(crate) lengths: Vec<usize>,
    pub(crate) plans: Vec<String>,
    pub(crate) samples: usize,
    pub(crate) seed: u64,
    pub(crate) audit: bool,
    pub(crate) exact: bool,
    /// The run that is made again.
    pub(crate) again: Option<Manifest>,
}

/// The tasks of these names; groups stand for theirs.
pub(crate) fn tasks(names: &[String]) -> Result<Vec<&'static dyn Task>> {
    let mut tasks: Vec<&'static dyn Task> = Vec::new();
    for name in names.iter().map(|name| name.trim()) {
        let group = GROUPS.iter().find(|group| group.id == name).map(|group| group.tasks);
        for id in group.unwrap_or(&[name]) {
            let Some(task) = eunoe_tasks::find(id) else {
                let known = LIST.iter().map(|t| t.card().id).chain(GROUPS.iter().map(|g| g.id));
                let near =
                    nearest(name, known).map_or(String::new(), |near| format!(" did you mean `{near}`?"));
                bail!("no task is called `{name}`;{near} `eunoe list tasks` has all");
            };
            if tasks.iter().all(|t| t.card().id != task.card().id) {
                tasks.push(task);
            }
        }
    }
    Ok(tasks)
}

/// Every plan that names no budget under each of these; methods that size themselves and `full` as they are.
pub(crate) fn under_budgets(plans: &[String], budgets: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let (mut own, mut given) = (Vec::new(), Vec::new());
    for text in plans {
        let plan = Plan::parse(text)?;
        if plan.budget.is_some() || plan.policy.card.id == "full" {
            all.push(text.clone());
            continue;
        }
        let policy = plan.make_policy(u32::MAX)?;
        if policy.claim(0, 0, u32::MAX) != Claim::Share || policy.needs().keep.is_some() {
            own.push(text.as_str());
            all.push(text.clone());
            continue;
        }
        given.push(text.as_str());
        for budget in budgets {
            let under = format!("{text} @ {}", budget.trim());
            Plan::parse(&under)?;
            all.push(under);
        }
    }
    if !given.is_empty() {
        eprintln!("note: {} under @ {} (--budget)", given.join(", "), budgets.join(", "));
    }
    if !own.is_empty() {
        eprintln!("note: {} set their sizes themselves: compare their bytes in the table", own.join(", "));
    }
    let mut seen = HashSet::new();
    all.retain(|plan| seen.insert(plan.clone()));
    Ok(all)
}

/// What the plans mean; `full` comes first.
pub(crate) fn plans(names: &[String], model: &Path) -> Result<Vec<(String, Option<Plan>)>> {
    let mut plans = vec![("full".to_owned(), Some(Plan::parse("full")?))];
    for name in names.iter().filter(|name| *name != "full") {
        plans.push((name.clone(), Some(profiles::attach(Plan::parse(name)?, model)?)));
    }
    Ok(plans)
}

#[cfg(test)]
mod tests {
    use eunoe_kv::Budget;

    use super::*;

    fn names(plans: &[&str], budgets: &[&str]) -> Vec<String> {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        under_budgets(&own(plans), &own(budgets)).unwrap()
    }

    #[test]
    fn plans_without_a_budget_run_under_each_and_the_others_as_they_are() {
        assert_eq!(
            names(&["full", "h2o", "a2sf @ 1MiB", "inf_llm", "full | q8"], &["50%", "64tok"]),
            ["full", "h2o @ 50%", "h2o @ 64tok", "a2sf @ 1MiB", "inf_llm", "full | q8"]
        );
        assert_eq!(names(&["h2o", "h2o"], &["50%"]), ["h2o @ 50%"]);
        assert!(under_budgets(&["h2o".into()], &["50".into()]).is_err());
    }

    #[test]
    fn tasks_are_found_by_name_and_by_group() {
        let ids = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            tasks(&names).map(|tasks| tasks.iter().map(|t| t.card().id).collect::<Vec<_>>())
        };
        let ruler = ids(&["ruler"]).unwrap();
        assert_eq!((ruler.len(), ruler[0], ruler[12]), (13, "niah_single_1", "qa_2"));
        assert_eq!(ids(&["needle", "qa_1", "needle"]).unwrap(), ["needle", "qa_1"]);
        let error = ids(&["neddle"]).unwrap_err().to_string();
        assert!(error.contains("did you mean `needle`?"), "{error}");
    }

    #[test]
    fn budgets_of_plans_are_percent_slots_or_bytes() {
        let plan = Plan::parse(&names(&["h2o"], &["12.5%"])[0]).unwrap();
        assert_eq!(plan.budget, Some(Budget::Percent(12.5)));
    }
}
