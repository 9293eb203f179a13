//! The steps of a plan.

/// One step of a plan with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Why.
    pub reason: String,
}
