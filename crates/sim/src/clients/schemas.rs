//! What clients change in schemas.

use isthmus_model::ids::Origin;
use isthmus_model::rule::{ConflictRules, Rule};
use isthmus_model::schema::DefinedColumn;
use isthmus_model::value::{Text, ValueKind};
use isthmus_store::{Table, Writers};
use rand::Rng;

use super::Clients;
use crate::families;

/// One in so many changes of a schema is a drop, where there are any.
const DROPS_ONE_IN: u32 = 40;

impl Clients {
    /// Changes something of the schema of a table, or drops it. Gives what, in words.
    pub(super) fn change_schema(&mut self, table: &Table) -> String {
        self.schema_changes += 1;
        if self.drops && self.rng.random_range(0..DROPS_ONE_IN) == 0 {
            drop(table.change_schema(|schema| {
                let mut schema = schema.clone();
                schema.options.is_dropped = true;
                Ok(schema)
            }));
            return format!("{} is dropped", table.name());
        }
        let before = table.schema().options.families.clone();
        let families = (self.drops && self.rng.random_range(0..3) == 0)
            .then(|| families::change(&mut self.rng, &before));
        let versions = self.rng.random_range(1..4);
        let toggles = self.rng.random_range(0..3) == 0 && self.expires;
        let whole_rows = table.spec().writers == Writers::ManyByRow;
        let rules =
            self.rng.random::<bool>().then(|| self.rules(whole_rows)).filter(|_| self.rules);
        let column: Text = format!("c{}", self.rng.random_range(0..4)).into();
        drop(table.change_schema(|schema| {
            let mut schema = schema.clone();
            if rules.is_some() {
                schema.options.rules = rules;
            }
            let defined = &mut schema.defined_columns;
            match defined.iter().position(|known| known.name == column) {
                Some(place) => drop(defined.remove(place)),
                None => defined.push(DefinedColumn { name: column, kind: ValueKind::String }),
            }
            // What a family takes stays: one that was made meanwhile is not unmade.
            if let Some(families) = families.filter(|_| schema.options.families == before) {
                schema.options.families = families;
            }
            schema.options.max_versions = versions;
            if toggles {
                schema.options.time_to_live_seconds = match schema.options.time_to_live_seconds {
                    None => Some(86_400),
                    Some(_) => None,
                };
            }
            Ok(schema)
        }));
        format!("schema of {} changed to {versions} versions, {toggles}", table.name())
    }

    fn rules(&mut self, whole_rows: bool) -> ConflictRules {
        let priority = vec![Origin(2), Origin(1)];
        if whole_rows {
            let is_late = self.rng.random_range(0..4) == 0;
            let default = if is_late { Rule::LastWriter } else { Rule::Priority };
            return ConflictRules { default, columns: Vec::new(), priority };
        }
        let plain = [Rule::LastWriter, Rule::Priority, Rule::Max, Rule::Min];
        let mut any = || plain[self.rng.random_range(0..plain.len())];
        let columns =
            vec![("c0".into(), any()), ("c1".into(), any()), ("n0".into(), Rule::Counter)];
        ConflictRules { default: any(), columns, priority }
    }
}
