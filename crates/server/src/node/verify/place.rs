//! A region that is asked about its rows: this one or another. Asking blocks.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::verify::answer::Answer;
use isthmus_replication::verify::error::VerifyError;
use isthmus_replication::verify::question::Question as Asked;
use isthmus_replication::verify::session::Local;
use isthmus_replication::verify::side::Side;
use prost::Message;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::api_error::ApiError;
use crate::node::Node;
use crate::peer::READ_TIMEOUT;
use crate::peer::call::{Question, Reply};
use crate::peer::dial::OtherRegion;
use crate::peer::verify::{
    Compare, Heal, HealTold, Repair, RepairTold, Roots, RootsTold, Rows, RowsTold, Scrub, ScrubTold,
};

/// A region that is asked.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) region: String,
    node: Arc<Node>,
    other: Option<(Arc<OtherRegion>, Handle)>,
}

impl Place {
    /// This region or another, by name.
    pub(super) fn named(node: &Arc<Node>, region: &str) -> Result<Place, ApiError> {
        Place::in_region(node, region, &Handle::current())
    }

    /// The same, outside of tasks.
    pub(crate) fn in_region(
        node: &Arc<Node>,
        region: &str,
        runtime: &Handle,
    ) -> Result<Place, ApiError> {
        let other = match region == node.config.region.name {
            true => None,
            false => {
                let unknown =
                    || ApiError::invalid(format!("Region {region} is not configured here."));
                Some((node.others.get(region).ok_or_else(unknown)?.clone(), runtime.clone()))
            }
        };
        Ok(Place { region: region.to_owned(), node: node.clone(), other })
    }

    /// The answer to one question.
    fn ask<T: Message + Default>(&self, question: Question) -> Result<T, ApiError> {
        let Some((other, runtime)) = &self.other else {
            let own = &self.node.config.region.name;
            return read(self.node.answer_about_rows(own, question)?);
        };
        let reply = runtime.block_on(other.ask_within(question, READ_TIMEOUT));
        let reply = reply.map_err(|status| unreachable(&self.region, status.message()))?;
        match reply.failure {
            None => read(reply.body),
            Some(failure) => {
                let code = ErrorCode::from_name(&failure.code);
                let code = code.unwrap_or(ErrorCode::InternalServerError);
                Err(ApiError::new(code, format!("{}: {}", self.region, failure.message)))
            }
        }
    }

    pub(super) fn scrub(&self, scrub: Scrub) -> Result<ScrubTold, ApiError> {
        self.ask(Question::Scrub(scrub))
    }

    pub(super) fn repair(&self, repair: Repair) -> Result<RepairTold, ApiError> {
        self.ask(Question::Repair(repair))
    }

    pub(super) fn heal(&self, heal: Heal) -> Result<HealTold, ApiError> {
        self.ask(Question::Heal(heal))
    }

    pub(super) fn rows(&self, rows: Rows) -> Result<RowsTold, ApiError> {
        self.ask(Question::Rows(rows))
    }

    pub(crate) fn roots(&self, roots: Roots) -> Result<RootsTold, ApiError> {
        self.ask(Question::Roots(roots))
    }

    /// The region as a comparison asks it.
    pub(crate) fn side(&self) -> Box<dyn Side> {
        match &self.other {
            None => Box::new(Local(self.node.verification.sessions.clone())),
            Some((other, runtime)) => {
                let (other, runtime) = (other.clone(), runtime.clone());
                Box::new(Remote { region: self.region.clone(), other, runtime, asked: None })
            }
        }
    }
}

fn unreachable(region: &str, why: &str) -> ApiError {
    let message = format!("Region {region} cannot be reached: {why}.");
    ApiError::new(ErrorCode::ServerUnavailable, message)
}

fn read<T: Message + Default>(body: Bytes) -> Result<T, ApiError> {
    T::decode(body).map_err(|_| {
        ApiError::new(ErrorCode::InternalServerError, "The answer of a region cannot be read.")
    })
}

/// What came of a question.
type Replied = Result<Reply, tonic::Status>;

/// Another region.
struct Remote {
    region: String,
    other: Arc<OtherRegion>,
    runtime: Handle,
    /// A question that is on its way.
    asked: Option<(Asked, JoinHandle<Replied>)>,
}

impl Remote {
    fn begin(&self, question: &Asked) -> JoinHandle<Replied> {
        let question = Question::Compare(Compare { question: question.encode() });
        let other = self.other.clone();
        self.runtime.spawn(async move { other.ask_within(question, READ_TIMEOUT).await })
    }

    fn unreachable(&self, why: &str) -> VerifyError {
        VerifyError::Unreachable(format!("{}: {why}", self.region))
    }
}

impl Side for Remote {
    fn ask(&mut self, question: Asked) -> Result<Answer, VerifyError> {
        let begun = match self.asked.take() {
            Some((asked, begun)) if asked == question => begun,
            Some(_) | None => self.begin(&question),
        };
        let reply = self.runtime.block_on(begun);
        let reply = reply.map_err(|error| self.unreachable(&error.to_string()))?;
        let reply = reply.map_err(|status| self.unreachable(status.message()))?;
        match reply.failure {
            None => Answer::decode(&reply.body),
            Some(failure) => Err(VerifyError::Read(failure.message)),
        }
    }

    fn ahead(&mut self, question: &Asked) {
        self.asked = Some((question.clone(), self.begin(question)));
    }

    fn leave(&mut self, question: Asked) {
        drop(self.begin(&question));
    }
}
