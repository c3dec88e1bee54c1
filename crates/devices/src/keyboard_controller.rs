//! As much of the 8042 keyboard controller as kernels ask for when there is no keyboard: its self test, its
//! command byte, and the reset line that many use to reboot.

use std::sync::{Arc, Mutex, PoisonError};

use vm_model::ResetSource;

use crate::bus::BusDevice;
use crate::power::PowerRequests;

/// Ports from the data port (0x60) to the status and command port (0x64).
pub const KEYBOARD_CONTROLLER_LENGTH: u64 = 5;

const DATA_PORT: u64 = 0;
const COMMAND_PORT: u64 = 4;

/// Status: a byte waits at the data port.
const STATUS_OUTPUT_FULL: u8 = 1 << 0;
/// Status: the self test has passed.
const STATUS_SYSTEM: u8 = 1 << 2;

const COMMAND_READ_CONFIGURATION: u8 = 0x20;
const COMMAND_WRITE_CONFIGURATION: u8 = 0x60;
const COMMAND_SELF_TEST: u8 = 0xaa;
const COMMAND_TEST_KEYBOARD_PORT: u8 = 0xab;
/// Pulses the output lines whose bits are clear: only the lowest, the processor's reset.
const COMMAND_PULSE_RESET: u8 = 0xfe;

const SELF_TEST_PASSED: u8 = 0x55;
const PORT_TEST_PASSED: u8 = 0x00;

/// The controller at ports 0x60 and 0x64.
pub struct KeyboardController {
    requests: Arc<dyn PowerRequests>,
    /// Leaf lock, held for single register accesses only.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    output: Option<u8>,
    configuration: u8,
    /// The next byte at the data port is the configuration.
    expects_configuration: bool,
}

impl KeyboardController {
    /// A controller whose reset line goes to `requests`.
    #[must_use]
    pub fn new(requests: Arc<dyn PowerRequests>) -> Self {
        Self { requests, state: Mutex::new(State::default()) }
    }
}

impl BusDevice for KeyboardController {
    /// Ports in between are not the controller's and read as an empty bus.
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (position, byte) in data.iter_mut().enumerate() {
            *byte = match offset.saturating_add(position as u64) {
                DATA_PORT => state.output.take().unwrap_or(0),
                COMMAND_PORT => state.status(),
                _ => 0xff,
            };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        if offset == COMMAND_PORT && value == COMMAND_PULSE_RESET {
            self.requests.reset(ResetSource::KeyboardController);
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match offset {
            COMMAND_PORT => state.command(value),
            DATA_PORT => state.data(value),
            _ => {}
        }
    }
}

impl State {
    fn status(&self) -> u8 {
        STATUS_SYSTEM | if self.output.is_some() { STATUS_OUTPUT_FULL } else { 0 }
    }

    fn command(&mut self, command: u8) {
        self.expects_configuration = false;
        match command {
            COMMAND_READ_CONFIGURATION => self.output = Some(self.configuration),
            COMMAND_WRITE_CONFIGURATION => self.expects_configuration = true,
            COMMAND_SELF_TEST => self.output = Some(SELF_TEST_PASSED),
            COMMAND_TEST_KEYBOARD_PORT => self.output = Some(PORT_TEST_PASSED),
            _ => {}
        }
    }

    /// Bytes for a keyboard go nowhere.
    fn data(&mut self, value: u8) {
        if std::mem::take(&mut self.expects_configuration) {
            self.configuration = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::testing::RecordedRequests;

    fn controller() -> (KeyboardController, Arc<RecordedRequests>) {
        let requests = Arc::new(RecordedRequests::default());
        (KeyboardController::new(requests.clone()), requests)
    }

    fn read(controller: &KeyboardController, port: u64) -> u8 {
        let mut byte = [0xaa];
        controller.read(port, &mut byte);
        byte[0]
    }

    #[test]
    fn reset_line_asks_for_a_reset_and_only_at_the_command_port() {
        let (controller, requests) = controller();
        controller.write(DATA_PORT, &[0xfe]);
        assert_eq!(requests.take(), []);
        controller.write(COMMAND_PORT, &[0xfe]);
        assert_eq!(requests.take(), [Some(ResetSource::KeyboardController)]);
    }

    #[test]
    fn idle_status_neither_has_output_nor_refuses_input() {
        let (controller, _requests) = controller();
        assert_eq!(read(&controller, COMMAND_PORT) & 0b11, 0);
    }

    #[test]
    fn self_test_answers_once() {
        let (controller, _requests) = controller();
        controller.write(COMMAND_PORT, &[0xaa]);
        assert_eq!(read(&controller, COMMAND_PORT) & 1, 1);
        assert_eq!(read(&controller, DATA_PORT), 0x55);
        assert_eq!(read(&controller, COMMAND_PORT) & 1, 0);
    }

    #[test]
    fn configuration_reads_back() {
        let (controller, _requests) = controller();
        controller.write(COMMAND_PORT, &[0x60]);
        controller.write(DATA_PORT, &[0x47]);
        controller.write(DATA_PORT, &[0x11]);
        controller.write(COMMAND_PORT, &[0x20]);
        assert_eq!(read(&controller, DATA_PORT), 0x47);
    }
}
