//! carrack-compose
