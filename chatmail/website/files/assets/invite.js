"use strict";
// Shows an invitation as a link and as a QR code. `data-invitation` says who gets an address here.
// "open": all visitors. "invite": visitors who open this page with a token after the #. Browsers do
// not send that part to servers. `data-account` is the link by which a messenger asks for an address.
// A relay with a self-signed certificate has no such link, because a messenger would refuse its
// certificate. There the page asks for an address and shows it.

const TOKEN = /^#([A-Za-z0-9_-]{22,43})$/;
const REFUSALS = {
  403: "This invitation is used up or no longer valid.",
  429: "Too many new addresses were asked for from your network. Please try again later.",
  503: "The relay cannot take in new people just now. Please try again later.",
};
const QR_QUIET_ZONE = 4; // modules of light around the code (ISO/IEC 18004, clause 6.3.8)

// Draws rows of booleans as an SVG element.
function qrImage(matrix) {
  const namespace = "http://www.w3.org/2000/svg";
  const size = matrix.length + 2 * QR_QUIET_ZONE;
  const image = document.createElementNS(namespace, "svg");
  image.setAttribute("viewBox", `0 0 ${size} ${size}`);
  image.setAttribute("role", "img");
  image.setAttribute("aria-label", "QR code of your invitation");
  image.setAttribute("shape-rendering", "crispEdges");
  let path = "";
  matrix.forEach((row, y) => row.forEach((dark, x) => {
    if (dark) path += `M${x + QR_QUIET_ZONE} ${y + QR_QUIET_ZONE}h1v1h-1z`;
  }));
  const modules = document.createElementNS(namespace, "path");
  modules.setAttribute("d", path);
  image.append(modules);
  return image;
}

async function fetchAddress(query) {
  const response = await fetch(`/new${query}`, { method: "POST", cache: "no-store" });
  if (!response.ok) {
    throw new Error(`the relay answered ${response.status}`, { cause: response.status });
  }
  const address = await response.json();
  if (!/^dclogin:/i.test(address.dclogin_url)) throw new Error("the answer has no dclogin link");
  return address;
}

function setUp(invitation) {
  const [code, link, status, ask] = ["code", "link", "status", "ask"]
    .map((part) => invitation.querySelector(`[data-invite=${part}]`));
  const { account, invitation: registration } = invitation.dataset;
  let asking = false;

  function show(url, text) {
    const matrix = qrCode(url);
    if (matrix) code.replaceChildren(qrImage(matrix));
    code.hidden = !matrix;
    link.href = url;
    link.hidden = false;
    status.textContent = text;
  }

  async function askRelay(query) {
    if (asking) return; // a second tap would use up the invitation once more
    asking = true;
    ask.hidden = true;
    status.textContent = "Asking the relay for a new address …";
    try {
      const address = await fetchAddress(query);
      show(address.dclogin_url, `Made for you: ${address.email}`);
    } catch (error) {
      status.textContent = REFUSALS[error.cause]
        || `No new address could be had: ${error.message}. Please try again later.`;
      ask.hidden = error.cause === 403;
    }
    asking = false;
  }

  function begin() {
    if (asking) return; // what is under way uses up an invitation: its address must be seen
    code.hidden = link.hidden = ask.hidden = true;
    const token = TOKEN.exec(location.hash);
    const query = registration === "open" ? "" : token && `?token=${token[1]}`;
    ask.onclick = () => askRelay(query);
    if (query === null) {
      status.textContent = "New addresses are by invitation: open the link of yours to see it here.";
    } else if (account) {
      show(account + query, "Scan the code with the app, or tap the button where it is installed.");
    } else if (query) { // not at once: a look at the page must not use up the invitation
      status.textContent = "You are invited. Press the button once you want your address.";
      ask.hidden = false;
    } else {
      askRelay(query);
    }
  }

  if (registration === "invite") addEventListener("hashchange", begin);
  begin();
}

document.querySelectorAll("[data-invitation]").forEach(setUp);
