//! The routes are those of `docs/openapi.json`, and the other way round.

use std::collections::BTreeSet;

use serde_json::Value;

/// Whatever gives routes to the router.
const SOURCES: [&str; 8] = [
    include_str!("../admin.rs"),
    include_str!("batches.rs"),
    include_str!("distributions.rs"),
    include_str!("failover.rs"),
    include_str!("global_tables.rs"),
    include_str!("jobs.rs"),
    include_str!("links.rs"),
    include_str!("tables.rs"),
];
const EVENTS: &str = include_str!("../node/events.rs");
const DESCRIPTION: &str = include_str!("../../../../docs/openapi.json");
const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

/// A method and a path.
type Route = (String, String);

/// The routes that a source has: a router tells none of its own.
fn routes_of(source: &str) -> Vec<Route> {
    let mut routes = Vec::new();
    for call in source.split(".route(").skip(1) {
        let mut depth = 1;
        let is_inside = |at: &char| {
            depth += i32::from(*at == '(') - i32::from(*at == ')');
            depth > 0
        };
        let call: String = call.chars().take_while(is_inside).collect();
        let path = call.split('"').nth(1).expect("a route has a path").to_owned();
        let (_, handlers) = call.split_once(',').expect("a route has a handler");
        for method in METHODS {
            let names = handlers.split(|at: char| !at.is_alphanumeric() && at != '_');
            if names.clone().any(|name| name == method) {
                routes.push((method.to_owned(), path.clone()));
            }
        }
    }
    routes
}

/// Whether a route serves a path that is described; what is in braces stands for anything.
fn serves(route: &Route, described: &Route) -> bool {
    let (pattern, path) = (route.1.split('/'), described.1.split('/'));
    route.0 == described.0
        && pattern.clone().count() == path.clone().count()
        && pattern.zip(path).all(|(pattern, part)| pattern.starts_with('{') || pattern == part)
}

#[test]
fn every_route_is_described_and_everything_described_is_a_route() {
    let routes: Vec<Route> = SOURCES.iter().flat_map(|source| routes_of(source)).collect();
    assert!(routes.len() > 20, "{routes:?}");
    let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
    let paths = description["paths"].as_object().unwrap();
    let described: BTreeSet<Route> = paths
        .iter()
        .flat_map(|(path, operations)| {
            let methods = operations.as_object().unwrap().keys();
            let methods = methods.filter(|method| METHODS.contains(&method.as_str()));
            methods.map(|method| (method.clone(), path.clone()))
        })
        .collect();
    let undescribed: Vec<&Route> =
        routes.iter().filter(|route| !described.iter().any(|told| serves(route, told))).collect();
    assert!(undescribed.is_empty(), "not in docs/openapi.json: {undescribed:?}");
    let unserved: Vec<&Route> =
        described.iter().filter(|told| !routes.iter().any(|route| serves(route, told))).collect();
    assert!(unserved.is_empty(), "docs/openapi.json tells of what is not there: {unserved:?}");
}

#[test]
fn every_kind_of_event_is_described() {
    let (_, kinds) = EVENTS.split_once("pub enum EventKind {").unwrap();
    let (kinds, _) = kinds.split_once("\n}").unwrap();
    let variants = kinds.lines().map(str::trim).filter_map(|line| line.strip_suffix(','));
    let kebab = |name: &str| {
        let mut word = String::new();
        for at in name.chars() {
            if at.is_uppercase() && !word.is_empty() {
                word.push('-');
            }
            word.extend(at.to_lowercase());
        }
        word
    };
    let is_name = |line: &&str| line.chars().all(char::is_alphanumeric);
    let kinds: BTreeSet<String> = variants.filter(is_name).map(kebab).collect();
    assert!(kinds.len() > 40, "{kinds:?}");
    let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
    let described = &description["components"]["schemas"]["Event"]["properties"]["kind"]["enum"];
    let described = described.as_array().unwrap().iter();
    let described: BTreeSet<String> = described.map(|kind| kind.as_str().unwrap().into()).collect();
    assert_eq!(kinds, described);
}
