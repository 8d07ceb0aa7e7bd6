//! What is not truename's own stays as it is.

use std::{fs, os::unix::fs::symlink, path::Path, process::Output};

use anyhow::{Result, ensure};
use aya::maps::MapData;
use truename_common::layout::{VERSION, map};
use truename_tests::{scratch::Scratch, traffic::Lab, truename::Truename, truename::binary};

fn detach(truename: &Truename, bpffs: &Path) -> Result<Output> {
    let mut command = truename.command(&["detach", "--bpffs"])?;
    Ok(command.arg(bpffs).output()?)
}

fn said(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(error)
}

/// An installation whose agent is not started, and its lab.
fn place(lab: &Lab, scratch: &Scratch) -> Result<Truename> {
    let endpoint = format!("pekko={}=jobmanager:6123", lab.address());
    let arguments = ["--interface", "s0", "--endpoint", &endpoint];
    let arguments = arguments.map(str::to_owned).to_vec();
    Truename::prepared(binary()?, lab.server(), scratch, arguments)
}

#[test]
fn detach_touches_no_directory_of_another_file_system() -> Result<()> {
    let lab = Lab::direct()?;
    let scratch = Scratch::new("foreign")?;
    let truename = place(&lab, &scratch)?;
    let directory = scratch.path().join("api");
    let files = ["v1/src/file", "v2/file", "v2/netns-1/file", "docs/file"];
    for file in files {
        let file = directory.join(file);
        fs::create_dir_all(file.parent().unwrap_or(&directory))?;
        fs::write(file, "precious")?;
    }
    let output = detach(&truename, &directory)?;
    let said = said(&output);
    ensure!(output.status.code() == Some(1), "{said}");
    ensure!(said.contains("is not on a BPF file system"), "{said}");
    for file in files {
        ensure!(directory.join(file).is_file(), "{file} is gone");
    }
    Ok(())
}

#[test]
fn pins_of_other_programs_stay() -> Result<()> {
    let lab = Lab::direct()?;
    let scratch = Scratch::new("foreign")?;
    let mut truename = place(&lab, &scratch)?;
    let root = truename.bpffs().to_owned();
    // Another program's, with names like those of older, of this and of newer table versions.
    let others = [root.join("v1/maps"), root.join("v9/programs")];
    for directory in &others {
        fs::create_dir_all(directory)?;
    }
    truename.start_agent()?;
    let version = root.join(format!("v{VERSION}"));
    let table = MapData::from_pin(version.join("maps").join(map::SETTINGS))?;
    table.pin(others[0].join("SETTINGS"))?;
    let inside = version.join("maps/SOMETHING");
    table.pin(&inside)?;
    truename.stop_agent()?;
    truename.start_agent()?;
    truename.kill_agent();

    let output = detach(&truename, &root)?;
    let text = said(&output);
    ensure!(output.status.code() == Some(1), "{text}");
    ensure!(text.contains(&inside.display().to_string()), "{text}");
    ensure!(inside.exists() && others[0].join("SETTINGS").exists() && others[1].exists());
    ensure!(!version.join("maps").join(map::PORTS).exists());
    ensure!(!version.join("programs/tn_ether").exists());
    // Whoever made it removes it, and detach does the rest.
    fs::remove_file(&inside)?;
    let output = detach(&truename, &root)?;
    ensure!(output.status.code() == Some(0), "{}", said(&output));
    ensure!(!version.exists() && others[0].join("SETTINGS").exists());
    Ok(())
}

#[test]
fn a_directory_of_this_versions_name_is_not_taken() -> Result<()> {
    let lab = Lab::direct()?;
    let scratch = Scratch::new("foreign")?;
    let mut truename = place(&lab, &scratch)?;
    let version = truename.bpffs().join(format!("v{VERSION}"));
    fs::create_dir_all(version.join("maps"))?;
    let Err(error) = truename.start_agent() else {
        anyhow::bail!("it started");
    };
    let error = format!("{error:#}");
    ensure!(error.contains("was not made by truename"), "{error}");
    ensure!(fs::read_dir(&version)?.count() == 1);
    Ok(())
}

#[test]
fn a_link_to_somewhere_else_is_not_followed() -> Result<()> {
    let lab = Lab::direct()?;
    let scratch = Scratch::new("foreign")?;
    let mut truename = place(&lab, &scratch)?;
    truename.start_agent()?;
    truename.kill_agent();
    let root = truename.bpffs().to_owned();
    let version = root.join(format!("v{VERSION}"));
    let elsewhere = scratch.path().join("xdp");
    let precious = elsewhere.join("2-generic");
    fs::create_dir(&elsewhere)?;
    fs::write(&precious, "precious")?;
    let link = version.join("xdp");
    // It is there if something was attached by XDP.
    if link.exists() {
        fs::remove_dir(&link)?;
    }
    symlink(&elsewhere, &link)?;
    let output = detach(&truename, &root)?;
    let text = said(&output);
    ensure!(output.status.code() == Some(1), "{text}");
    ensure!(text.contains(&link.display().to_string()), "{text}");
    ensure!(precious.is_file(), "it was removed");
    fs::remove_file(&link)?;
    let output = detach(&truename, &root)?;
    ensure!(output.status.code() == Some(0), "{}", said(&output));

    // The same for the directory of a version.
    fs::create_dir_all(&root)?;
    symlink(scratch.path(), &version)?;
    let Err(error) = truename.start_agent() else {
        anyhow::bail!("it started");
    };
    let error = format!("{error:#}");
    ensure!(error.contains("was not made by truename"), "{error}");
    fs::remove_file(&version)?;
    Ok(())
}

#[test]
fn filters_of_another_installation_stay_wherever_its_pins_are() -> Result<()> {
    let lab = Lab::direct()?;
    let scratch = Scratch::new("foreign")?;
    let mut truename = place(&lab, &scratch)?;
    let elsewhere = truename.bpffs().to_owned();
    truename.move_pins(&elsewhere.join("deep/er"));
    truename.add_arguments(&["--attach", "clsact"]);
    truename.start_agent()?;
    let agent = truename.agent()?;
    let mark = agent.mark();
    let output = detach(&truename, &elsewhere.join("none"))?;
    let text = said(&output);
    ensure!(output.status.code() == Some(0), "{text}");
    ensure!(text.contains("nothing was attached"), "{text}");
    truename.status()?;
    ensure!(agent.count_lines(mark, &["Somebody else"]) == 0);
    truename.detach()?;
    Ok(fs::remove_dir_all(elsewhere)?)
}
