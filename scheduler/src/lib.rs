//! carrack-scheduler
