//! Why an apply is refused: somebody else owns what it wants to set.

use super::fieldset::{self, FieldSet};
use super::managed::Owner;
use super::versions::Unmade;
use crate::status::{Cause, Details, Status};

/// Why an apply was not made.
pub(super) enum Fault {
    Conflicts(Vec<Conflict>),
    Unmade(Unmade),
}

impl From<Unmade> for Fault {
    fn from(unmade: Unmade) -> Fault {
        Fault::Unmade(unmade)
    }
}

/// Fields that an apply wants to set and somebody else owns.
pub(super) struct Conflict {
    pub(super) owner: Owner,
    pub(super) fields: FieldSet,
}

impl Conflict {
    /// Whether a conflict is left without these fields.
    pub(super) fn forgive(&mut self, allowed: &FieldSet) -> bool {
        self.fields = self.fields.difference(allowed);
        !self.fields.is_empty()
    }
}

/// All of them in one answer, with a cause for each field.
pub(super) fn to_status(conflicts: &[Conflict]) -> Status {
    let fields: Vec<(String, String)> = conflicts
        .iter()
        .flat_map(|conflict| {
            let owner = conflict.owner.describe();
            conflict.fields.paths().into_iter().map(move |path| (owner.clone(), fieldset::display_path(&path)))
        })
        .collect();
    let causes = fields
        .iter()
        .map(|(owner, field)| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {owner}"),
            field: field.clone(),
        })
        .collect();
    let message = match fields.as_slice() {
        [(owner, field)] => format!("Apply failed with 1 conflict: conflict with {owner}: {field}"),
        many => {
            let mut lines = Vec::new();
            for (n, (owner, field)) in many.iter().enumerate() {
                if n == 0 || many[n - 1].0 != *owner {
                    lines.push(format!("conflicts with {owner}:"));
                }
                lines.push(format!("- {field}"));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    Status::new(409, "Conflict", message).with_details(Details { causes, ..Details::default() })
}
