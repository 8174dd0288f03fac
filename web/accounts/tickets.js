import { focusOn, h } from "../core/dom.js";
import { address } from "../core/http.js";
import { api } from "../core/api.js";
import { action, field, form, part } from "./parts.js";

const SILENCE = 5_000;
const NOT_OPENED = 1006;
const GOOD = "It is good once, for a connection to this address.";

/** A ticket for one WebSocket, for a program that can set nothing but an address. */
export function tickets({ report }) {
  const box = field("Its path", "path", { required: true, spellcheck: "false", autocomplete: "off" });
  const path = box.querySelector("input");
  const door = h("select", { id: "ticket-door" });
  const told = h("p", { class: "hint" });
  const given = h("div", { class: "ticket" });
  let drop = () => {};

  function choose() {
    const { value, dataset } = door.selectedOptions[0];
    path.value = value;
    told.replaceChildren(dataset.told);
  }

  async function show() {
    const doors = await api.get("tickets/doors");
    if (doors.length === 0) return place.replaceChildren("This service has no WebSocket.");
    const option = (each) => h("option", { value: each.path, "data-told": each.description }, each.path);
    door.replaceChildren(...doors.map(option));
    choose();
    place.replaceChildren(h("p", {}, says), get, given);
  }

  const choice = h("div", { class: "field" }, h("label", { for: door.id }, "WebSocket"), door, told);
  door.addEventListener("change", choose);
  const get = form("Get a ticket", [choice, box], async (values) => {
    drop();
    const { ticket, expires_in } = await api.post("tickets", { path: values.path });
    const url = address(values.path.replace(/^\//, ""));
    url.protocol = url.protocol.replace("http", "ws");
    url.searchParams.set("ticket", ticket);
    drop = offer(given, String(url), expires_in, report);
    return "There is a ticket.";
  });
  const says = "For a program that can set nothing but an address, such as a browser's own WebSocket.";
  const place = h("div", {});
  show().catch(report);
  return part("Tickets", place);
}

/** Shows the address of a ticket as long as it is good; returns what ends that. */
function offer(place, url, seconds, report) {
  const until = Date.now() + seconds * 1000;
  const left = h("p", { role: "timer" });
  const answer = h("div", {});
  const attempt = action("Connect with it", report, async () => {
    over("The ticket is used.");
    answer.replaceChildren(await firstWord(url));
    focusOn(answer);
  });

  function over(why) {
    clearInterval(counting);
    attempt.remove();
    left.replaceChildren(why);
  }

  function count() {
    const rest = Math.ceil((until - Date.now()) / 1000);
    if (rest <= 0) return over("The ticket is over.");
    left.replaceChildren(`${GOOD} ${rest} s are left.`);
  }

  const counting = setInterval(() => (left.isConnected ? count() : clearInterval(counting)), 1000);
  place.replaceChildren(h("code", { class: "secret" }, url), left, attempt, answer);
  count();
  return () => over("");
}

/** What the service says first at an address, to whoever brings nothing else. */
function firstWord(url) {
  return new Promise((settle) => {
    const socket = new WebSocket(url);
    const said = (text) => settle(h("pre", { class: "frame" }, text));
    socket.addEventListener("open", () => {
      setTimeout(() => {
        said("Connected. It says nothing by itself.");
        socket.close();
      }, SILENCE);
    });
    socket.addEventListener("message", ({ data }) => {
      said(pretty(data));
      socket.close();
    });
    socket.addEventListener("close", ({ code, reason }) => {
      said(code === NOT_OPENED ? "Nothing opens at this address." : `Closed: ${code} ${reason}`);
    });
  });
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return String(text);
  }
}
