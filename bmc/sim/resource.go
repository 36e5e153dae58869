package sim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// Paths of the simulated service.
const (
	rootPath     = "/redfish/v1"
	sessionsPath = rootPath + "/SessionService/Sessions"
	systemPath   = rootPath + "/Systems/1"
	managerPath  = rootPath + "/Managers/1"
	chassisPath  = rootPath + "/Chassis/1"
	mediaPath    = managerPath + "/VirtualMedia/Cd"
)

// resetActions are the ResetType values (DSP0268) that the service takes.
var resetActions = map[string]Action{
	"On": On, "ForceOn": On, "ForceOff": Off, "GracefulShutdown": Soft, "PushPowerButton": Soft,
	"ForceRestart": Reset, "GracefulRestart": Reset, "PowerCycle": Cycle,
}

// bootTargets are the BootSourceOverrideTarget values (DSP0268) that the
// service takes.
var bootTargets = map[string]Device{
	"None": FirmwareOrder, "Pxe": PXE, "Hdd": Disk, "Cd": CDROM, "BiosSetup": BIOSSetup,
}

// routes registers every resource.
func (r *Redfish) routes() {
	fixed := func(path string, doc object) {
		doc["@odata.id"] = path
		serve := func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, doc) }
		r.mux.HandleFunc("GET "+path, serve)
		r.mux.HandleFunc("GET "+path+"/{$}", serve)
	}
	fixed("/redfish", object{"v1": rootPath + "/"})
	fixed(rootPath, object{
		"@odata.type": "#ServiceRoot.v1_9_0.ServiceRoot", "Id": "RootService", "Name": "Simulated Redfish service",
		"RedfishVersion": "1.11.0", "UUID": r.config.SystemUUID,
		"Systems": link(rootPath + "/Systems"), "Managers": link(rootPath + "/Managers"), "Chassis": link(rootPath + "/Chassis"),
		"SessionService": link(rootPath + "/SessionService"), "Links": object{"Sessions": link(sessionsPath)},
	})
	fixed(rootPath+"/SessionService", object{
		"@odata.type": "#SessionService.v1_1_8.SessionService", "Id": "SessionService", "Name": "Sessions",
		"ServiceEnabled": true, "SessionTimeout": int(r.config.SessionTimeout.Seconds()), "Sessions": link(sessionsPath),
	})
	fixed(rootPath+"/Managers", collection("Managers", managerPath))
	fixed(rootPath+"/Chassis", collection("Chassis", chassisPath))
	fixed(managerPath, object{
		"@odata.type": "#Manager.v1_11_0.Manager", "Id": "1", "Name": "Simulated controller", "ManagerType": "BMC",
		"FirmwareVersion": "simulator", "VirtualMedia": link(managerPath + "/VirtualMedia"),
		"Links": object{"ManagerForServers": []object{link(systemPath)}},
	})
	chassis := object{
		"@odata.type": "#Chassis.v1_15_0.Chassis", "Id": "1", "Name": "Simulated chassis", "ChassisType": "RackMount",
		"Manufacturer": r.config.Manufacturer, "SerialNumber": r.config.Serial,
		"Links": object{"ComputerSystems": []object{link(systemPath)}, "ManagedBy": []object{link(managerPath)}},
	}
	r.sensorRoutes(chassis, fixed)
	fixed(chassisPath, chassis)
	fixed(managerPath+"/VirtualMedia", collection("Virtual media", mediaPath))
	nics := make([]string, 0, len(r.config.MACs))
	for i, mac := range r.config.MACs {
		path := fmt.Sprintf("%s/EthernetInterfaces/%d", systemPath, i+1)
		nics = append(nics, path)
		fixed(path, object{
			"@odata.type": "#EthernetInterface.v1_6_0.EthernetInterface", "Id": fmt.Sprint(i + 1),
			"Name": fmt.Sprintf("NIC %d", i+1), "MACAddress": mac, "PermanentMACAddress": mac, "InterfaceEnabled": true,
		})
	}
	fixed(systemPath+"/EthernetInterfaces", collection("Ethernet interfaces", nics...))
	r.hardwareRoutes(fixed)

	r.mux.HandleFunc("POST "+sessionsPath, r.openSession)
	r.mux.HandleFunc("GET "+sessionsPath, r.listSessions)
	r.mux.HandleFunc("GET "+sessionsPath+"/{id}", r.showSession)
	r.mux.HandleFunc("DELETE "+sessionsPath+"/{id}", r.closeSession)
	r.mux.HandleFunc("GET "+rootPath+"/Systems", r.listSystems)
	r.mux.HandleFunc("GET "+systemPath, r.showSystem)
	r.mux.HandleFunc("PATCH "+systemPath, r.patchSystem)
	r.bootRoutes()
	r.mux.HandleFunc("POST "+systemPath+"/Actions/ComputerSystem.Reset", r.resetSystem)
	r.mux.HandleFunc("GET "+mediaPath, r.showMedia)
	r.mux.HandleFunc("POST "+mediaPath+"/Actions/VirtualMedia.InsertMedia", r.insertMedia)
	r.mux.HandleFunc("POST "+mediaPath+"/Actions/VirtualMedia.EjectMedia", r.ejectMedia)
}

func link(path string) object { return object{"@odata.id": path} }

func collection(name string, members ...string) object {
	links := make([]object, 0, len(members))
	for _, m := range members {
		links = append(links, link(m))
	}
	return object{"@odata.type": "#Collection.Collection", "Name": name, "Members": links, "Members@odata.count": len(links)}
}

func sessionDocument(id, user string) object {
	return object{
		"@odata.id": sessionsPath + "/" + id, "@odata.type": "#Session.v1_3_0.Session",
		"Id": id, "Name": "Session " + id, "UserName": user,
	}
}

func (r *Redfish) listSessions(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	paths := make([]string, 0, len(r.sessions))
	for _, s := range r.sessions {
		paths = append(paths, sessionsPath+"/"+s.id)
	}
	writeJSON(w, http.StatusOK, collection("Sessions", paths...))
}

func (r *Redfish) showSession(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		if s.id == req.PathValue("id") {
			writeJSON(w, http.StatusOK, sessionDocument(s.id, r.config.Username))
			return
		}
	}
	http.NotFound(w, req)
}

func (r *Redfish) listSystems(w http.ResponseWriter, _ *http.Request) {
	switch r.currentFault() {
	case FaultManyLinks:
		many := make([]string, 20_000)
		for i := range many {
			many[i] = fmt.Sprintf("%s/Systems/%d", rootPath, i+1)
		}
		writeJSON(w, http.StatusOK, collection("Systems", many...))
	case FaultPages:
		doc := collection("Systems", systemPath, rootPath+"/Systems/2")
		doc["Members@odata.nextLink"] = rootPath + "/Systems/next"
		writeJSON(w, http.StatusOK, doc)
	case FaultForeignLink:
		writeJSON(w, http.StatusOK, collection("Systems", "@elsewhere.invalid/redfish/v1/Systems/1"))
	default:
		writeJSON(w, http.StatusOK, collection("Systems", systemPath))
	}
}

// system is the ComputerSystem document of this moment.
func (r *Redfish) system(req *http.Request) (object, error) {
	on, err := r.machine.Power(req.Context())
	if err != nil {
		return nil, err
	}
	o, err := r.machine.Boot(req.Context())
	if err != nil {
		return nil, err
	}
	power := "Off"
	if on {
		power = "On"
	}
	allowed := []string{"On", "ForceOff", "GracefulShutdown", "ForceRestart"}
	if r.currentFault() == FaultNoReset {
		allowed = allowed[:3]
	}
	doc := object{
		"@odata.id": systemPath, "@odata.type": "#ComputerSystem.v1_13_0.ComputerSystem",
		"Id": "1", "Name": "Simulated system", "SystemType": "Physical", "PowerState": power,
		"UUID": r.config.SystemUUID, "SerialNumber": r.config.Serial,
		"Manufacturer": r.config.Manufacturer, "Model": r.config.Model,
		"EthernetInterfaces": link(systemPath + "/EthernetInterfaces"),
		"Links":              object{"ManagedBy": []object{link(managerPath)}, "Chassis": []object{link(chassisPath)}},
		"Boot":               r.currentBoot(o),
		"Actions": object{"#ComputerSystem.Reset": object{
			"target":                            systemPath + "/Actions/ComputerSystem.Reset",
			"ResetType@Redfish.AllowableValues": allowed,
		}},
	}
	if r.config.Boot.Settings != SettingsNone {
		doc["@Redfish.Settings"] = object{"@odata.type": "#Settings.v1_3_0.Settings", "SettingsObject": link(settingsPath)}
	}
	r.describeSystem(doc)
	return doc, nil
}

func (r *Redfish) showSystem(w http.ResponseWriter, req *http.Request) {
	switch r.currentFault() {
	case FaultHangSystem:
		<-req.Context().Done()
		return
	case FaultGarbage:
		_, _ = w.Write([]byte("<html><body>502 Bad Gateway</body></html>"))
		return
	case FaultWrongTypes:
		writeJSON(w, http.StatusOK, object{"@odata.id": 1, "PowerState": 7, "Boot": []int{1}, "Actions": "no"})
		return
	case FaultHuge:
		_, _ = w.Write([]byte(`{"Name":"`))
		chunk := []byte(strings.Repeat("x", 64<<10))
		for req.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
		return
	}
	doc, err := r.system(req)
	if err != nil {
		redfishError(w, http.StatusInternalServerError, "Base.1.8.InternalError", err.Error())
		return
	}
	w.Header().Set("ETag", r.tag(req, doc))
	writeJSON(w, http.StatusOK, doc)
}

// forbidden answers 403 under that fault.
func (r *Redfish) forbidden(w http.ResponseWriter) bool {
	if r.currentFault() != FaultForbidden {
		return false
	}
	redfishError(w, http.StatusForbidden, "Base.1.8.InsufficientPrivilege", "The account lacks the privilege.")
	return true
}

func (r *Redfish) resetSystem(w http.ResponseWriter, req *http.Request) {
	var body struct{ ResetType string }
	if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
		redfishError(w, http.StatusBadRequest, "Base.1.8.MalformedJSON", "The request body is not valid JSON.")
		return
	}
	action, known := resetActions[body.ResetType]
	if !known {
		redfishError(w, http.StatusBadRequest, "Base.1.8.ActionParameterNotSupported", "The reset type is not supported.")
		return
	}
	if r.forbidden(w) {
		return
	}
	if r.currentFault() == FaultStuck {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if err := r.machine.Do(req.Context(), action); err != nil {
		redfishError(w, http.StatusInternalServerError, "Base.1.8.InternalError", err.Error())
		return
	}
	if r.currentFault() == FaultLostReset {
		cut(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (r *Redfish) showMedia(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	image, types := r.inserted, []string{"CD", "DVD"}
	if r.fault == FaultNoMedia {
		types = []string{"Floppy"}
	}
	r.mu.Unlock()
	writeJSON(w, http.StatusOK, object{
		"@odata.id": mediaPath, "@odata.type": "#VirtualMedia.v1_3_0.VirtualMedia", "Id": "Cd", "Name": "Virtual CD",
		"MediaTypes": types, "Image": image, "Inserted": image != "", "ConnectedVia": "URI",
		"Actions": object{
			"#VirtualMedia.InsertMedia": object{"target": mediaPath + "/Actions/VirtualMedia.InsertMedia"},
			"#VirtualMedia.EjectMedia":  object{"target": mediaPath + "/Actions/VirtualMedia.EjectMedia"},
		},
	})
}

func (r *Redfish) insertMedia(w http.ResponseWriter, req *http.Request) {
	var body struct{ Image string }
	if err := json.NewDecoder(req.Body).Decode(&body); err != nil || body.Image == "" {
		redfishError(w, http.StatusBadRequest, "Base.1.8.ActionParameterMissing", "The request has no Image.")
		return
	}
	if r.forbidden(w) {
		return
	}
	if r.currentFault() != FaultLostMedia {
		r.changeMedia(MediaEvent{Image: body.Image, Inserted: true})
	}
	w.WriteHeader(http.StatusNoContent)
}

func (r *Redfish) ejectMedia(w http.ResponseWriter, _ *http.Request) {
	r.changeMedia(MediaEvent{})
	w.WriteHeader(http.StatusNoContent)
}

func (r *Redfish) changeMedia(e MediaEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inserted = e.Image
	r.media = append(r.media, e)
	if len(r.media) > 1000 {
		r.media = r.media[1:]
	}
}
