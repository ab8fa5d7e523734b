//! What of a table a region that is bound takes, as arguments of `isthmus global-table bind`.

use clap::{Args, ValueEnum};
use serde_json::{Value as Json, json};

use crate::error::CliError;

/// What is taken.
#[derive(Args, Debug, Default)]
pub(crate) struct ExtractArgs {
    /// What the regions take when [default: full-then-incremental]
    #[arg(long, value_name = "KIND")]
    copy: Option<CopyKind>,
    /// Keys from these first values of a key, a JSON array
    #[arg(long, value_name = "JSON")]
    range_from: Option<String>,
    /// Keys to these first values of a key, exclusive, a JSON array
    #[arg(long, value_name = "JSON")]
    range_to: Option<String>,
    /// Attribute columns to take
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Vec<String>,
    /// Column families to take; `rest`: the columns that have none
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    families: Vec<String>,
    /// Rows to take, as in '{"column":{"name":"age","is":">=","value":18}}'
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
}

/// What is taken when.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum CopyKind {
    /// What is there, once
    Full,
    /// What comes
    Incremental,
    /// What is there and what comes
    FullThenIncremental,
}

impl ExtractArgs {
    /// The extract, as the administration API takes it; `None`: all, always.
    pub(crate) fn to_json(&self) -> Result<Option<Json>, CliError> {
        let mut extract = json!({});
        if let Some(copy) = self.copy {
            extract["copy"] = match copy {
                CopyKind::Full => json!("full"),
                CopyKind::Incremental => json!("incremental"),
                CopyKind::FullThenIncremental => json!("full-then-incremental"),
            };
        }
        let given = [
            ("range_from", "--range-from", &self.range_from),
            ("range_to", "--range-to", &self.range_to),
            ("filter", "--filter", &self.filter),
        ];
        for (name, argument, text) in given {
            if let Some(text) = text {
                extract[name] = serde_json::from_str(text)
                    .map_err(|error| CliError::usage(format!("{argument} is no JSON: {error}")))?;
            }
        }
        if !self.columns.is_empty() {
            extract["columns"] = json!(self.columns);
        }
        if !self.families.is_empty() {
            extract["families"] = json!(self.families);
        }
        Ok((extract != json!({})).then_some(extract))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_asked_for_and_nothing_else() {
        assert_eq!(ExtractArgs::default().to_json().unwrap(), None);
        let args = ExtractArgs {
            copy: Some(CopyKind::Full),
            range_from: Some(r#"["a", 7]"#.to_owned()),
            columns: vec!["x".to_owned()],
            ..ExtractArgs::default()
        };
        let expected = json!({"copy": "full", "range_from": ["a", 7], "columns": ["x"]});
        assert_eq!(args.to_json().unwrap(), Some(expected));
        let wrong = ExtractArgs { filter: Some("{".to_owned()), ..ExtractArgs::default() };
        assert!(wrong.to_json().unwrap_err().message.contains("--filter"));
    }
}
