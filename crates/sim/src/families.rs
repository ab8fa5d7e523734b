//! Random column families for the tables of worlds.

use isthmus_model::family::{Families, Family, FamilyTime};
use isthmus_model::value::Text;
use rand::Rng;
use rand::rngs::SmallRng;

/// What families take, in the order in which they are made: columns by name, and a prefix.
const TAKEN: [(&[&str], Option<&str>); 3] =
    [(&["c0"], None), (&["n0"], Some("c")), (&["big"], Some("n"))];

/// The families after a change of the schema: one more, or some that live otherwise than before.
pub(crate) fn change(rng: &mut SmallRng, before: &Families) -> Families {
    let mut list = before.list().to_vec();
    if let Some((columns, prefix)) = TAKEN.get(list.len())
        && (list.is_empty() || rng.random())
    {
        list.push(Family {
            name: Text::from(format!("f{}", list.len())),
            columns: columns.iter().map(|name| Text::from(*name)).collect(),
            prefix: prefix.map(Text::from),
            time_to_live: FamilyTime::AsTable,
            max_versions: None,
        });
    }
    for family in &mut list {
        if rng.random() {
            continue;
        }
        family.time_to_live = match rng.random_range(0..4) {
            0 => FamilyTime::AsTable,
            1 => FamilyTime::Forever,
            2 => FamilyTime::Seconds(86_400),
            _ => FamilyTime::Seconds(200_000),
        };
        family.max_versions = rng.random::<bool>().then(|| rng.random_range(1..4));
    }
    Families::new(list)
}
