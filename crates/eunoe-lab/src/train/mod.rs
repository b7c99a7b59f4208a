//! Training: the optimiser, the schedule, checkpoints, the loop.

mod checkpoint;
mod config;
mod optimizer;
mod page;
mod run;
mod step;

pub use checkpoint::{CHECKPOINT, Checkpoint, load_params, read_header, write_whole};
pub use config::{Data, RunConfig, TrainConfig};
pub use optimizer::{AdamW, Clip, Grads};
pub use page::page;
pub use run::{Progress, Row, evaluate, train};
pub use step::{Step, Trainee};
