//! `glint model`: what is in a checkpoint, and what would each rank hold of it?

use std::{io::Write, path::PathBuf};

use glint_model::{Checkpoint, Inspection, Plan};

use crate::{
    source::{self, ModelSource},
    up::Display,
};

/// Looks into a checkpoint.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Prints architecture, parameters, bytes and KV bytes per token.
    Inspect {
        /// Folder with config.json and safetensors.
        path: PathBuf,
    },
    /// Fetches or makes the model of `glint up --model` and prints its folder.
    Fetch {
        /// demo, tiny, or hf:ORG/NAME.
        model: ModelSource,
    },
    /// Prints what each rank of a group would hold.
    Plan {
        /// Folder with config.json and safetensors.
        path: PathBuf,
        /// Ranks of the group.
        #[arg(long)]
        world_size: u32,
    },
}

/// Prints the answer to standard output.
pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    let text = match command {
        Command::Fetch { model } => {
            let display = Display::new(false);
            let folder = model.folder(&source::cache_folder()?, &display)?;
            Checkpoint::open(&folder)?;
            display.clear();
            format!("{}\n", folder.display())
        }
        Command::Inspect { path } => Inspection::of(&Checkpoint::open(path)?)?.to_string(),
        Command::Plan { path, world_size } => {
            Plan::of(&Checkpoint::open(path)?, *world_size)?.to_string()
        }
    };
    // A closed pipe (`| head`) is no failure worth a sentence.
    let _closed = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
