// Elements, made without markup: what comes from guests and operators goes in as text and stays text.

/** An element `name`. In `attributes`, `on…` are listeners, `class` and others as in HTML; absent and false ones are left out. */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same of SVG. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets the text of `element`, if it is another one: an unchanged one keeps a selection in it. */
export function say(element, text) {
  const wanted = String(text ?? "");
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Sets the attribute `key` of `element`, if it is another one: an unchanged curve is not drawn again. */
export function set(element, key, value) {
  if (element.getAttribute(key) !== value) element.setAttribute(key, value);
}

/** A list of terms and what they are; rows without a value are left out. */
export function facts(rows) {
  const shown = rows.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return el("dl", {}, shown.map(([term, value]) => [el("dt", {}, term), el("dd", {}, value)]));
}
