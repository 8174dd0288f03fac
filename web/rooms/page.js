/** The page of the rooms example: the list on the left, the open room on the right. */
import { addStyles, focusOn, h } from "../core/dom.js";
import { RoomList } from "./list.js";
import { RoomView } from "./room.js";

const styles = ["rooms.css", "talk.css"].map((name) => new URL(name, import.meta.url));
await Promise.all(styles.map(addStyles));

export function mount(element, context) {
  const list = new RoomList(context);
  const place = h("section", { class: "rooms-open", "aria-label": "Room" });
  let room = null;

  function show(path) {
    if (room?.id === path) return;
    room?.close();
    room = path === "" ? null : new RoomView(path, context, () => list.reload());
    element.classList.toggle("has-room", room !== null);
    place.replaceChildren(room ? room.element : noRoom());
    list.select(path);
    if (room) room.open();
    else focusOn(list.element);
  }

  element.classList.add("rooms");
  element.append(list.element, place);
  list.reload();
  show(context.path);
  return {
    show,
    unmount() {
      list.close();
      room?.close();
    },
  };
}

function noRoom() {
  const attributes = { href: "./", target: "_blank", rel: "noopener" };
  const secondTab = h("a", attributes, "open a second tab");
  const files = ["app/features/rooms/rest.py", "app/features/rooms/ws.py", "web/rooms/page.js"];
  const says = ["its routes", "its channel", "this page"];
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, "No room is open."),
    h("p", {}, "Choose one from the list, or create one. To talk, ", secondTab, " as somebody else."),
    h(
      "dl",
      { class: "files" },
      files.map((file, i) => h("div", {}, h("dt", {}, says[i]), h("dd", {}, h("code", {}, file)))),
    ),
  );
}
