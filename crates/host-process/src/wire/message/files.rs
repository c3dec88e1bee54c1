//! A message's open descriptors, in memory and on the wire.

use std::convert::Infallible;
use std::os::fd::OwnedFd;

use super::{Hello, Launch, Listener, ToHost};
use crate::wire::descriptors::{Attached, DescriptorError, FdIndex, Received};

impl<F> ToHost<F> {
    /// The same message with every file turned into another form, in a fixed order.
    ///
    /// # Errors
    /// The first error of `convert`; files converted before it are dropped.
    fn try_map_files<G, E>(self, mut convert: impl FnMut(F) -> Result<G, E>) -> Result<ToHost<G>, E> {
        Ok(match self {
            Self::Hello(Hello { versions, build, listener }) => {
                let listener = listener.map(|listener| listener.try_map_files(&mut convert));
                ToHost::Hello(Hello { versions, build, listener: listener.transpose()? })
            }
            Self::Launch(launch) => ToHost::Launch(Box::new(launch.try_map_files(&mut convert)?)),
            Self::Call { call, vm, command } => ToHost::Call { call, vm, command },
            Self::Cancel { call } => ToHost::Cancel { call },
            Self::Counters { call, vm } => ToHost::Counters { call, vm },
            Self::Forget { vm } => ToHost::Forget { vm },
            Self::ShutDown { patience } => ToHost::ShutDown { patience },
            Self::Unknown => ToHost::Unknown,
        })
    }
}

impl<F> Listener<F> {
    fn try_map_files<G, E>(self, convert: &mut impl FnMut(F) -> Result<G, E>) -> Result<Listener<G>, E> {
        let socket = convert(self.socket)?;
        let directory = self.directory.map(convert).transpose()?;
        Ok(Listener { socket, directory, name: self.name })
    }
}

impl<F> Launch<F> {
    fn try_map_files<G, E>(self, convert: &mut impl FnMut(F) -> Result<G, E>) -> Result<Launch<G>, E> {
        Ok(Launch {
            call: self.call,
            vm: self.vm,
            spec: self.spec.try_map_files(|_, file| convert(file))?,
            verified: self.verified,
            initial: self.initial,
            resets: self.resets,
            console_dir: self.console_dir.map(&mut *convert).transpose()?,
            lock: self.lock.map(&mut *convert).transpose()?,
            notes: self.notes,
        })
    }
}

impl ToHost<OwnedFd> {
    /// The form of the message on the wire, and its descriptors.
    pub(in crate::wire) fn into_wire(self) -> (ToHost<FdIndex>, Vec<OwnedFd>) {
        let mut attached = Attached::default();
        let message = self.try_map_files(|file| Ok::<_, Infallible>(attached.attach(file)));
        let Ok(message) = message;
        (message, attached.into_descriptors())
    }
}

impl ToHost<FdIndex> {
    /// The message with the descriptors that came with it. Those of a message of unknown type are closed.
    pub(in crate::wire) fn with_descriptors(
        self,
        descriptors: Vec<OwnedFd>,
    ) -> Result<ToHost<OwnedFd>, DescriptorError> {
        let mut received = Received::new(descriptors);
        let message = self.try_map_files(|index| received.take(index))?;
        match message {
            ToHost::Unknown => {}
            ToHost::Hello(_)
            | ToHost::Launch(_)
            | ToHost::Call { .. }
            | ToHost::Cancel { .. }
            | ToHost::Counters { .. }
            | ToHost::Forget { .. }
            | ToHost::ShutDown { .. } => received.finish()?,
        }
        Ok(message)
    }
}
